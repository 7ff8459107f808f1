"""The contract for types of rooms with limits of their own: ``HISTORY_BY_TYPE`` in ``harness.py``."""

from __future__ import annotations

import pytest

from roomcast.broker.base import Event, Publication

from .harness import HISTORY_BY_TYPE, HISTORY_SIZE, HISTORY_TTL, ROOM, Harness, split


class RoomTypeContract:
    """Histories of different sizes and TTLs, next to each other."""

    @pytest.mark.parametrize("type", HISTORY_BY_TYPE)
    async def test_the_size_of_a_type(self, harness: Harness, type: str) -> None:
        """A history has the size of its room's type, and ``recovered`` is exact for each id."""
        size, room = HISTORY_BY_TYPE[type].size, f"{type}:1"
        ids = await harness.fill(size + 3, room)
        assert [event.id for event in (await harness.broker.history(room)).events] == ids[3:]
        for number, since in enumerate(ids):
            found = await harness.broker.history(room, since)
            assert (found.recovered, found.last_id) == (number + 1 >= 3, ids[-1])
            assert [event.id for event in found.events] == (ids[number + 1 :] if found.recovered else [])

    @pytest.mark.parametrize("type", HISTORY_BY_TYPE)
    async def test_the_ttl_of_a_type(self, harness: Harness, type: str) -> None:
        """An event is stored for the TTL of its room's type."""
        size, ttl = HISTORY_BY_TYPE[type]
        room = f"{type}:1"
        old = await harness.fill(1, room)
        await harness.pass_time(ttl * 0.6)
        new = await harness.fill(1, room)
        assert [event.id for event in (await harness.broker.history(room)).events] == [*old, *new][2 - min(size, 2) :]
        await harness.pass_time(ttl * 0.6)
        assert [event.id for event in (await harness.broker.history(room)).events] == (new if size else [])
        await harness.pass_time(ttl * 0.6)
        found = await harness.broker.history(room)
        assert (list(found.events), found.last_id) == ([], new[0])

    async def test_a_list_for_rooms_of_several_types(self, harness: Harness) -> None:
        """One list publishes in rooms of all types; each keeps as many events as its type says."""
        rooms = [ROOM, *(f"{type}:1" for type in HISTORY_BY_TYPE)]
        await harness.broker.subscribe(rooms)
        many = [Publication(room, b"%d" % number) for number in range(4 * HISTORY_SIZE) for room in rooms]
        ids = await harness.broker.publish_many(many)
        received = await harness.received_events()
        for room in rooms:
            size = HISTORY_BY_TYPE[type].size if (type := room.partition(":")[0]) in HISTORY_BY_TYPE else HISTORY_SIZE
            published = [Event(id, one.payload) for id, one in zip(ids, many, strict=True) if one.room == room]
            assert [split(event.id)[1] for event in published] == list(range(1, 4 * HISTORY_SIZE + 1))
            assert [(id, payload) for name, id, payload in received if name == room] == published
            stored = list((await harness.broker.history(room)).events)
            assert stored == (published[-size:] if size else [])

    async def test_a_room_that_keeps_nothing(self, harness: Harness) -> None:
        """Events of a room that keeps none are delivered; only the newest id resumes, and later events arrive live."""
        room = "unkept:1"
        await harness.broker.subscribe([room])
        start = (await harness.broker.history(room)).last_id
        ids = await harness.fill(2, room)
        assert [id for _, id, _ in await harness.received_events()] == ids
        for since, is_recovered in ((start, False), (ids[0], False), (ids[1], True)):
            found = await harness.broker.history(room, since)
            assert (list(found.events), found.recovered, found.last_id) == ([], is_recovered, ids[1])

    async def test_a_type_is_the_whole_text_before_the_colon(self, harness: Harness) -> None:
        """Limits apply to rooms of exactly that type, and not to types or ids that begin with the same letters."""
        for room in ("unkept_too:1", "unkep:1", "channel:unkept", "channel:unkept:1"):
            ids = await harness.fill(HISTORY_SIZE, room)
            assert [event.id for event in (await harness.broker.history(room)).events] == ids

    async def test_idempotency_keys_in_a_room_that_keeps_nothing(self, harness: Harness) -> None:
        """A key is known for its own time, even if its event is not stored."""
        first = await harness.broker.publish("unkept:1", b"x", "k")
        await harness.pass_time(HISTORY_TTL)
        assert await harness.broker.publish("unkept:1", b"x", "k") == first

    async def test_the_announcement_limit_of_a_type(self, harness: Harness) -> None:
        """Joins are announced up to the limit of the room's type; other types have the limit for all rooms."""
        rooms = ("brief:1", "archive:1")
        await harness.broker.subscribe(rooms)
        for number, user_id in enumerate((1, 2, 3)):
            for room in rooms:
                await harness.broker.enter(room, user_id, "x", number)
        await harness.received_events()
        await harness.listener.until(lambda: len(harness.listener.announced) >= 5)
        announced = {room: [user for name, user, _, _ in harness.listener.announced if name == room] for room in rooms}
        assert announced == {"brief:1": [1, 2], "archive:1": [1, 2, 3]}
        assert len(await harness.broker.members("brief:1")) == 3

    async def test_unread_messages_of_a_type(self, harness: Harness) -> None:
        """Without a mark, the messages that a room of this type keeps are unread."""
        for type, (size, _) in HISTORY_BY_TYPE.items():
            room = f"{type}:1"
            await harness.broker.subscribe([room])
            for _ in range(size + 2):
                await harness.broker.publish(room, b"x", None, True)
            await harness.received_events()
            assert (await harness.broker.history(room)).last_id  # the listener has received it when this returns
            read = await harness.broker.marks.count_read(room, 1)
            assert harness.broker.marks.count_all(room) - read == size
