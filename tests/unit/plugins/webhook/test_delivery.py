"""The delivery of webhooks, with a queue of the embedded broker and a real receiver."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web
from waiting import wait_until
from webhook_site import FAST, Site, Start, event


async def has_states(site: Site, names: set[str]) -> bool:
    """Return True if the queue has the states with these names, and no others."""
    return set(await site.queue.read_states()) == names


async def test_all_events(start: Start) -> None:
    """Each kind of event arrives signed, with an id and a time of its own."""
    site = await start()
    site.change("user:7", is_present=True)
    site.change("user:b%20c", is_present=True)
    site.change("channel:1", is_present=True)
    site.publish("channel:1", 1, text="é")
    receiver = site.receiver
    await receiver.until(lambda: len(receiver.events) == 4)
    assert receiver.told() == {7: "user.online", "b c": "user.online", "channel:1": "room.occupied"}
    [published] = [each for each in receiver.events if each["type"] == "event.published"]
    assert published == {
        "id": "channel:1/e-1",
        "type": "event.published",
        "timestamp": "2026-11-30T00:00:00Z",
        "data": event("channel:1", 1, text="é"),
    }
    assert len({each["id"] for each in receiver.events}) == 4
    for room in list(site.service.rooms):
        site.change(room, is_present=False)
    gone = {7: "user.offline", "b c": "user.offline", "channel:1": "room.vacated"}
    await receiver.until(lambda: receiver.told() == gone)
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert receiver.headers[0]["User-Agent"].startswith("roomcast/")
    await wait_until(lambda: has_states(site, {"!table"}))
    assert (await site.queue.info()).entries == 0


async def test_only_selected_types(start: Start) -> None:
    """Types that are not selected are not sent, and nothing waits for them."""
    site = await start(types=frozenset({"user.offline"}))
    for room in ("user:7", "channel:1"):
        site.change(room, is_present=True)
    receiver = site.receiver
    await wait_until(lambda: has_states(site, {"!table", "user:7"}))
    site.change("user:7", is_present=False)
    await receiver.until(lambda: receiver.events)
    assert [each["type"] for each in receiver.events] == ["user.offline"]


async def test_events_of_a_room_arrive_in_order(start: Start) -> None:
    """Events that nodes appended in another order arrive in the order of the room, several in one request."""
    site = await start()
    for offset in (3, 1, 2):
        site.publish("channel:1", offset)
    for offset in range(4, 250):
        site.publish("channel:1", offset)
        site.publish("channel:2", offset)
    receiver = site.receiver
    await receiver.until(lambda: len(receiver.events) == 495)
    assert [id for room, id in receiver.published() if room == "channel:1"] == [f"e-{i}" for i in range(1, 250)]
    assert [id for room, id in receiver.published() if room == "channel:2"] == [f"e-{i}" for i in range(4, 250)]
    assert max(len(events) for _, events in receiver.requests) == 100
    assert len(receiver.requests) < 30


async def test_a_repeated_request_has_the_same_id(start: Start) -> None:
    """A request that failed is repeated with the same ``webhook-id`` and the same events."""
    site = await start()
    receiver = site.receiver
    receiver.answer = lambda events: 500 if len(receiver.requests) < 4 else None
    site.publish("channel:1", 1)
    site.change("user:7", is_present=True)
    await receiver.until(lambda: len(receiver.events) == 2)
    ids: dict[str, list[Any]] = {}
    for id, events in receiver.requests:
        assert ids.setdefault(id, events) == events
    assert len(receiver.requests) > len(ids)


async def test_a_refused_event_does_not_stop_others(start: Start) -> None:
    """An event that the receiver refuses is repeated; events of other rooms arrive, and those of its room wait."""
    site = await start()
    receiver = site.receiver
    is_fixed = False
    receiver.answer = lambda events: (
        422 if not is_fixed and any(e["data"].get("id") == "e-13" for e in events) else None
    )
    for offset in range(40):
        site.publish(f"channel:{offset % 10}", offset)
    others = {(f"channel:{i % 10}", f"e-{i}") for i in range(40) if i % 10 != 3 or i < 13}
    await receiver.until(lambda: set(receiver.published()) == others)

    async def has_removed_others() -> bool:
        return (await site.queue.info()).entries == 3

    await wait_until(has_removed_others)
    is_fixed = True
    await receiver.until(lambda: len(receiver.events) == 40)
    assert [id for room, id in receiver.published() if room == "channel:3"] == ["e-3", "e-13", "e-23", "e-33"]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 429, 500, 503])
async def test_every_status_but_2xx_is_a_failure(start: Start, status: int) -> None:
    """Redirections are not followed, and refusals are repeated."""
    site = await start()
    receiver = site.receiver
    headers = {"Location": receiver.url + "/elsewhere"}
    receiver.answer = lambda events: (
        web.Response(status=status, headers=headers) if len(receiver.requests) < 3 else None
    )
    site.publish("channel:1", 1)
    await receiver.until(lambda: receiver.events)
    assert len(receiver.requests) == 3
    await wait_until(lambda: site.delivery.requests == {"accepted": 1, "refused": 2, "failed": 0})


async def test_a_receiver_that_is_down(start: Start) -> None:
    """While the port is closed, events wait in the queue; afterwards they arrive in order."""
    site = await start()
    receiver = site.receiver
    await receiver.stop()
    for offset in range(10):
        await site.publish("channel:1", offset)
    await wait_until(lambda: site.delivery.requests["failed"] >= 3)
    assert (await site.queue.info()).entries == 10
    await receiver.start()
    await receiver.until(lambda: len(receiver.events) == 10)
    assert [id for _, id in receiver.published()] == [f"e-{i}" for i in range(10)]


async def test_dead_letters(start: Start) -> None:
    """An event that is refused for too long is a dead letter; later ones of its room follow; a retry delivers it."""
    site = await start(timing=FAST._replace(retry=0.5))
    receiver = site.receiver
    is_fixed = False
    receiver.answer = lambda events: 400 if not is_fixed and any(e["data"]["id"] == "e-1" for e in events) else None
    site.publish("channel:1", 1)
    site.publish("channel:1", 2)
    await receiver.until(lambda: receiver.published() == [("channel:1", "e-2")], 60)
    [letter] = await site.queue.dead_letters(None, 10)
    assert letter.reason == "it answered 400"
    is_fixed = True
    assert await site.queue.retry([letter.id]) == 1
    await receiver.until(lambda: len(receiver.events) == 2)

    async def is_empty() -> bool:
        return (await site.queue.info())[:4] == (0, 0, 0.0, 0)

    await wait_until(is_empty)


async def test_a_receiver_that_is_gone(start: Start) -> None:
    """After 410 the events are dead letters at once, and nothing is sent for a while."""
    site = await start()
    receiver = site.receiver
    receiver.answer = lambda events: 410
    site.publish("channel:1", 1)
    await receiver.until(lambda: receiver.requests)
    gone_at = time.monotonic()
    receiver.answer = lambda events: None
    await site.publish("channel:1", 2)
    await receiver.until(lambda: receiver.events)
    assert time.monotonic() - gone_at > FAST.gone * 0.9
    assert receiver.published() == [("channel:1", "e-2")]
    assert len(await site.queue.dead_letters(None, 10)) == 1


async def test_lost_hooks(start: Start) -> None:
    """Users and rooms whose change was never reported are found by comparison, in both directions."""
    site = await start()
    receiver = site.receiver
    site.service.rooms |= {"user:7", "channel:1"}
    await receiver.until(lambda: receiver.told() == {7: "user.online", "channel:1": "room.occupied"})
    site.service.rooms.clear()
    await receiver.until(lambda: receiver.told() == {7: "user.offline", "channel:1": "room.vacated"})
    assert len(receiver.events) == 4


async def test_a_return_before_the_delivery(start: Start) -> None:
    """A user who returns before the receiver accepts the departure is not reported; nor is one who only looks in."""
    site = await start()
    receiver = site.receiver
    site.change("user:7", is_present=True)
    await receiver.until(lambda: receiver.told() == {7: "user.online"})
    await receiver.stop()
    site.change("user:7", is_present=False)
    site.change("user:8", is_present=True)
    await wait_until(lambda: site.delivery.requests["failed"] >= 2)
    site.change("user:7", is_present=True)
    site.change("user:8", is_present=False)
    await receiver.start()
    site.change("user:9", is_present=True)
    await receiver.until(lambda: receiver.told().get(9) == "user.online")
    assert receiver.told()[7] == "user.online"
    assert receiver.told().get(8) != "user.online"


async def test_another_consumer_continues(start: Start) -> None:
    """A delivery that is cut off in a request leaves the state unknown, and the next one tells the current state."""
    site = await start()
    receiver = site.receiver
    site.change("user:7", is_present=True)
    await receiver.until(lambda: receiver.told() == {7: "user.online"})
    reached, release = asyncio.Event(), asyncio.Event()
    accept = receiver._handle

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        response = await accept(request)
        reached.set()
        await release.wait()
        return response

    await receiver.stop()
    receiver._handle = hold  # type: ignore[method-assign]
    await receiver.start()
    site.change("user:7", is_present=False)
    await reached.wait()  # the receiver knows that the user is offline, and the node does not know that
    site.service.rooms.add("user:7")
    await site.stop()
    assert (await site.queue.read_states())["user:7"] == "unknown"
    release.set()
    receiver._handle = accept  # type: ignore[method-assign]
    await receiver.stop()
    await receiver.start()
    await site.start()
    await receiver.until(lambda: receiver.told() == {7: "user.online"})


async def test_states_that_the_broker_lost(start: Start) -> None:
    """If the table of states is lost, the consumer writes it again and tells nothing twice."""
    site = await start()
    receiver = site.receiver
    site.change("user:7", is_present=True)
    await receiver.until(lambda: receiver.told() == {7: "user.online"})
    site.queue._states.clear()
    await wait_until(lambda: has_states(site, {"!table", "user:7"}))
    site.service.rooms.clear()
    await receiver.until(lambda: receiver.told() == {7: "user.offline"})
    assert len(receiver.events) == 2


@pytest.mark.parametrize("is_present", [True, False])
async def test_newest_states_that_the_broker_lost(start: Start, is_present: bool) -> None:
    """If a replica is promoted that lacks the newest states, a consumer that begins again tells them again."""
    site = await start()
    receiver = site.receiver
    kinds = {True: "user.online", False: "user.offline"}
    site.change("user:7", is_present=True)
    await receiver.until(lambda: receiver.told() == {7: kinds[True]})
    if is_present:
        site.change("user:7", is_present=False)
        await receiver.until(lambda: receiver.told() == {7: kinds[False]})
        await wait_until(lambda: has_states(site, {"!table"}))
        site.queue._states["user:7"] = "present"
    else:
        await wait_until(lambda: has_states(site, {"!table", "user:7"}))
        del site.queue._states["user:7"]
    (site.service.rooms.add if is_present else site.service.rooms.discard)("user:7")
    site.service.fault = RuntimeError("a fault")
    site.change("channel:1", is_present=True)
    now = {7: kinds[is_present], "channel:1": "room.occupied"}
    await receiver.until(lambda: receiver.told() == now)


async def test_a_failure_of_the_delivery(start: Start) -> None:
    """After an unexpected exception the delivery begins again, also with the events that it had read."""
    site = await start()
    receiver = site.receiver
    receiver.answer = lambda events: 500 if len(receiver.requests) < 3 else None
    site.publish("channel:1", 1)
    await receiver.until(lambda: receiver.requests)
    site.service.fault = RuntimeError("a fault")
    site.change("user:7", is_present=True)
    await receiver.until(lambda: len(receiver.events) == 2)
    assert receiver.published() == [("channel:1", "e-1")]
    assert site.service.fault is None


async def test_a_server_of_some_rooms_that_is_down(start: Start) -> None:
    """In a Cluster, a room whose server cannot be reached waits for it, and other rooms and events do not."""
    site = await start()
    receiver = site.receiver
    site.service.unreachable.add("channel:1")
    site.change("channel:1", is_present=True)
    site.change("channel:2", is_present=True)
    site.publish("channel:1", 1)
    await receiver.until(lambda: len(receiver.events) == 2)
    assert receiver.told() == {"channel:2": "room.occupied"}
    site.service.unreachable.clear()
    await receiver.until(lambda: receiver.told() == {"channel:1": "room.occupied", "channel:2": "room.occupied"})
    assert len(receiver.events) == 3
