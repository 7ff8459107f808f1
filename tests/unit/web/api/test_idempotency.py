"""Idempotency keys of requests: what is asked for twice is done once, and what failed can be asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from serving import Serve, answer, call, connect

from roomcast.broker.base import Publication
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable
from roomcast.web.server import Server

EVENTS = "/api/v1/events"


def created(title: str = "A", room: str = "task:1") -> dict[str, Any]:
    """An event as a backend sends it."""
    return {"type": "task.created", "room": room, "data": {"task_id": 1, "title": title}}


async def publish(server: Server, events: Any, key: str) -> tuple[int, Any]:
    """Publish with an idempotency key."""
    return await call(server, "POST", EVENTS, events, headers={"Idempotency-Key": key})


async def titles(server: Server) -> list[str]:
    """What the history of the room has."""
    _, kept = await call(server, "GET", "/api/v1/rooms/task:1/history")
    return [event["data"]["title"] for event in kept["events"]]


class SlowBroker(MemoryBroker):
    """Publishes when it is let to, as one far away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.let = asyncio.Event()

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        self.asked.set()
        await self.let.wait()
        return await super().publish_many(publications)


class LosingBroker(MemoryBroker):
    """Loses its connection once, before it publishes or after."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.after = after
        self.losing = True

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        losing, self.losing = self.losing, False
        if losing and not self.after:
            raise Unavailable("the line is cut")
        ids = await super().publish_many(publications)
        if losing:
            raise Unavailable("the line is cut")
        return ids


@pytest.mark.parametrize("events", [created(), [created("A"), created("B")], []], ids=["one", "list", "empty"])
async def test_a_repeat_publishes_nothing_and_gets_the_first_answer(serve: Serve, events: Any):
    """The same body with the same key: the same answer, marked as replayed, and members hear of it once."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("task:1")
        await alice.recv_type("user_joined")
        first = await publish(server, events, "k-1")
        assert first[0] == 200
        once = await alice.settled()
        async with answer(server, "POST", EVENTS, events, headers={"Idempotency-Key": "k-1"}) as response:
            assert (response.status, await response.json()) == first
            assert response.headers["Idempotency-Replayed"] == "true"
        assert len(once) == (len(events) if isinstance(events, list) else 1)
        assert await alice.settled() == []


async def test_another_key_or_none_is_another_request(serve: Serve):
    """Only the key makes a repeat: equal bodies are otherwise published as often as they come."""
    server = await serve()
    answers = [await publish(server, created(), "k-1"), await publish(server, created(), "k-2")]
    answers += [await call(server, "POST", EVENTS, created()), await call(server, "POST", EVENTS, created())]
    assert len({body["id"] for _, body in answers}) == 4


async def test_a_key_used_with_another_body_is_refused(serve: Serve):
    """422, nothing is published, and the first request can still be repeated (draft, section 2.7)."""
    server = await serve()
    first = await publish(server, created("A"), "k-1")
    status, body = await publish(server, created("B"), "k-1")
    assert (status, body["code"]) == (422, "key_reused")
    assert "new key" in body["error"]
    assert await titles(server) == ["A"]
    assert await publish(server, created("A"), "k-1") == first


async def test_a_refused_request_does_not_use_up_its_key(serve: Serve):
    """Put right, it is published with the same key."""
    server = await serve()
    assert (await publish(server, [created("A"), created("B", "nowhere")], "k-1"))[0] == 422
    assert (await publish(server, [created("A"), created("B")], "k-1"))[0] == 200
    assert await titles(server) == ["A", "B"]


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb", "schlüssel"])
async def test_a_key_that_cannot_be_one_is_refused(serve: Serve, key: str):
    """400 for what is empty, too long or not printable; nothing is published."""
    server = await serve()
    status, body = await publish(server, created(), key)
    assert (status, body["code"]) == (400, "bad_idempotency_key")
    assert await titles(server) == []


async def test_two_keys_are_not_one(serve: Serve):
    """Two headers, of which one could be meant, are refused."""
    server = await serve()
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    status, body = await call(server, "POST", EVENTS, created(), headers=headers)
    assert (status, body["code"]) == (400, "bad_idempotency_key")


async def test_the_longest_key_of_any_printable_characters_will_do(serve: Serve):
    """128 characters, blanks and slashes among them."""
    server = await serve()
    key = ' !"/:*{}~'.strip().ljust(127, " ") + "."
    assert (await publish(server, created(), key)) == (await publish(server, created(), key))
    assert await titles(server) == ["A"]


async def test_keys_that_look_alike_do_not_meet(serve: Serve):
    """The keys of a list's items are not keys of other requests, and no user's keys are a backend's."""
    server = await serve()
    async with connect(server, user_id="http", username="mallory") as mallory:
        await mallory.join("channel:1")
        await mallory.send("send_message", "channel:1", {"content": "mine"}, key="k-1", id=1)
        await mallory.recv_type("sent", id=1)
        message = {"content": "theirs", "username": "bot", "user_id": 0}
        events = [{"type": "message", "room": "channel:1", "data": message}] * 2
        for key, count in (("k-1", 2), ("k-1/0", 2), ("k-1/1", 2)):
            assert (await publish(server, events, key))[0] == 200
            heard = await mallory.settled()
            assert len([frame for frame in heard if frame["data"].get("content") == "theirs"]) == count


async def test_a_repeat_while_the_first_is_under_way_waits_for_its_answer(serve: Serve):
    """Both get one answer, and the events are published once."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    first = asyncio.create_task(publish(server, created(), "k-1"))
    await broker.asked.wait()
    broker.asked.clear()
    repeats = [asyncio.create_task(publish(server, created(), "k-1")) for _ in range(3)]
    for _ in range(3):  # the repeats have arrived by the time that others, sent after them, are answered
        assert (await call(server, "GET", "/api/v1/rooms"))[0] == 200
    assert not any(task.done() for task in (first, *repeats))
    assert not broker.asked.is_set()
    broker.let.set()
    answers = [await task for task in (first, *repeats)]
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200
    assert await titles(server) == ["A"]


async def test_a_repeat_does_not_wait_for_ever(serve: Serve):
    """After HANDLER_TIMEOUT it is told to come back: 409 with Retry-After; the first request goes on."""
    broker = SlowBroker()
    server = await serve(broker=broker, handler_timeout=0.1)
    first = asyncio.create_task(publish(server, created(), "k-1"))
    await broker.asked.wait()
    async with answer(server, "POST", EVENTS, created(), headers={"Idempotency-Key": "k-1"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (409, "1")
        assert (await response.json())["code"] == "in_progress"
    broker.let.set()
    assert (await first)[0] == 200
    assert await publish(server, created(), "k-1") == await first
    assert await titles(server) == ["A"]


@pytest.mark.parametrize("after", [False, True])
async def test_what_failed_can_be_asked_again_with_its_key(serve: Serve, after: bool):
    """Whether the broker was lost before the events were published or after, a repeat leaves them published once."""
    server = await serve(broker=LosingBroker(after=after))
    status, body = await publish(server, [created("A"), created("B")], "k-1")
    assert (status, body["code"]) == (503, "unavailable")
    status, body = await publish(server, [created("A"), created("B")], "k-1")
    assert (status, len(set(body["ids"]))) == (200, 2)
    assert await titles(server) == ["A", "B"]
