"""A broker under test, its listener, and a way to let time pass."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from roomcast.broker.base import Announcements, Broker, UserId
from roomcast.broker.queue import QueueLimits
from roomcast.broker.room_types import HistoryLimits

#: The options of the broker in a harness.
HISTORY_SIZE = 5
HISTORY_TTL = 60.0
HISTORY_BYTES = 100_000
#: The types of rooms with other limits.
HISTORY_BY_TYPE = {
    "brief": HistoryLimits(3, HISTORY_TTL / 3),
    "archive": HistoryLimits(3 * HISTORY_SIZE, 4 * HISTORY_TTL),
    "unkept": HistoryLimits(0, HISTORY_TTL),
}
#: Rooms of the type ``followed`` have hooks for their members.
ANNOUNCEMENTS = Announcements(max_users_by_type={"brief": 2, "followed": 1}, followed_types=frozenset({"followed"}))
QUEUE_LIMITS = QueueLimits(entries=50, bytes=10_000, dead_letters=3)
ROOM = "channel:1"
OTHER = "channel:2"


class RecordingListener:
    """A listener that records all calls. ``until`` waits, because a broker may report events later."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, bytes]] = []
        self.resyncs: list[tuple[str, str]] = []
        #: Broadcasts: the room and the payload.
        self.broadcasts: list[tuple[str, bytes]] = []
        self.signals: list[bytes] = []
        self.signals_lost = 0
        self.questions: list[bytes] = []
        #: Joins and leaves: the room, the user, the username, and True for a join.
        self.announced: list[tuple[str, UserId, str, bool]] = []
        #: Statuses: the room, the user, the username, and the status.
        self.statuses: list[tuple[str, UserId, str, str]] = []
        #: Changes of memberships: the room, the user, the username, and True for a join.
        self.changes: list[tuple[str, UserId, str, bool]] = []
        #: Followed events: the room, the id, and the payload.
        self.published: list[tuple[str, str, bytes]] = []
        #: What ``on_membership`` and ``on_published`` return: futures that are done, unless ``is_busy``.
        self.is_busy = False
        self.futures: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()

    def on_membership(self, room: str, user_id: UserId, username: str, has_joined: bool) -> asyncio.Future[None]:
        self.changes.append((room, user_id, username, has_joined))
        return self._future()

    def on_published(self, room: str, id: str, payload: bytes) -> asyncio.Future[None]:
        self.published.append((room, id, payload))
        return self._future()

    def _future(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        if not self.is_busy:
            future.set_result(None)
        self.futures.append(future)
        self._changed.set()
        return future

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        self.events.append((room, id, payload))
        self._changed.set()

    async def wait_for_members(self, room: str) -> None:
        await asyncio.sleep(0)

    def on_resync(self, room: str, last_id: str) -> None:
        self.resyncs.append((room, last_id))
        self._changed.set()

    def on_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        self.announced.append((room, user_id, username, has_joined))
        self._changed.set()

    def on_broadcast(self, room: str, payload: bytes) -> None:
        self.broadcasts.append((room, payload))
        self._changed.set()

    def on_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        self.statuses.append((room, user_id, username, status))
        self._changed.set()

    def on_signal(self, message: bytes) -> None:
        self.signals.append(message)
        self._changed.set()

    def on_question(self, question: bytes) -> bytes:
        self.questions.append(question)
        if question == b"fail":
            raise ValueError("no answer")
        return b"answer to " + question

    def on_signals_lost(self) -> None:
        self.signals_lost += 1
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; fail after 10 s."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Harness:
    """A started broker, its listener, and a way to let time pass for the broker."""

    broker: Broker
    pass_time: Callable[[float], Awaitable[None]]
    listener: RecordingListener = field(default_factory=RecordingListener)
    #: The rooms of the markers of ``received_events``. Events on different servers of a Cluster arrive in any order.
    markers: tuple[str, ...] = ("channel:marker",)

    async def fill(self, count: int, room: str = ROOM) -> list[str]:
        """Publish ``count`` events with the payloads b"0", b"1", ...; return their ids."""
        return [await self.broker.publish(room, b"%d" % i) for i in range(count)]

    async def received_events(self) -> list[tuple[str, str, bytes]]:
        """Return all events that the listener has received, after marker events that are published now arrived."""
        await self.broker.subscribe(self.markers)
        ids = await asyncio.gather(*[self.broker.publish(marker, b"") for marker in self.markers])
        published = {(marker, id, b"") for marker, id in zip(self.markers, ids, strict=True)}
        await self.listener.until(lambda: published <= set(self.listener.events))
        return [event for event in self.listener.events if event[0] not in self.markers]

    async def announced(self, *, after: float = 0.0) -> list[tuple[UserId, bool]]:
        """Return the users announced in ROOM since the last call, with True for a join, when ``after`` s have passed.

        Only the first call subscribes ROOM, so call it first.
        """
        await self._announce(after)
        found = [(user_id, has_joined) for _, user_id, _, has_joined in self.listener.announced]
        self.listener.announced.clear()
        return found

    async def updated(self, *, after: float = 0.0) -> list[tuple[UserId, str]]:
        """Return the statuses announced in ROOM since the last call, as ``announced`` does for joins and leaves."""
        await self._announce(after)
        found = [(user_id, status) for _, user_id, _, status in self.listener.statuses]
        self.listener.statuses.clear()
        return found

    async def _announce(self, after: float) -> None:
        await self.broker.subscribe([ROOM])
        if after:
            await self.pass_time(after)
        await self.broker.announce_due()
        await self.broker.members(ROOM)  # on Redis this announces who is due, too
        last = await self.broker.publish(ROOM, b"")
        await self.listener.until(lambda: (ROOM, last, b"") in self.listener.events)

    async def listed(self, room: str = ROOM, **options: int) -> list[UserId]:
        """Return the users on all pages of the list of members."""
        found: list[UserId] = []
        cursor = None
        while True:
            page = await self.broker.list_members(room, cursor, **options)
            found += [member.user_id for member in page.members]
            if (cursor := page.cursor) is None:
                return found


def split(event_id: str) -> tuple[str, int]:
    """Return the epoch and the offset of an id; fail if it is not one."""
    found = re.fullmatch(r"([A-Za-z0-9_.~]+)-(0|[1-9][0-9]*)", event_id)
    assert found is not None, event_id
    return found[1], int(found[2])


def not_ids(good: str) -> dict[str, str]:
    """Return strings that a client may send but that are no ids of the room of ``good``, by name."""
    epoch, offset = split(good)
    return {
        "empty": "",
        "no dash": epoch,
        "no offset": f"{epoch}-",
        "only a dash": "-",
        "no epoch": f"-{offset}",
        "beyond the top": f"{epoch}-{offset + 1}",
        "far beyond the top": f"{epoch}-{2**64}",
        "more digits than int() takes": f"{epoch}-{'9' * 5000}",
        "many zeros": f"{epoch}-{'0' * 5000}{offset}",
        "negative": f"{epoch}--1",
        "signed": f"{epoch}-+{offset}",
        "leading zero": f"{epoch}-0{offset}",
        "spaces": f"{epoch}- {offset}",
        "underscore": f"{epoch}-1_0",
        "fraction": f"{epoch}-{offset}.0",
        "other digits": f"{epoch}-\u0663",
        "superscript": f"{epoch}-\u00b2",
        "line end": f"{epoch}-{offset}\n",
        "nul": f"{epoch}-{offset}\0",
        "lone surrogate": f"{epoch}-\ud800",
        "another epoch": f"{epoch}x-{offset}",
        "epoch cut short": f"{epoch[:-1]}-{offset}",
        "a stream's id": "1700000000000-0",
        "long": "x" * 100_000,
    }


class ManualClock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
