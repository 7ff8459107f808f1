"""Requests with an ``Idempotency-Key``: repeats publish nothing, and failed requests can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from serving import WITH_KEY, GatewayClient, connect, task_created

from roomcast.broker.base import Publication
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable

EVENTS = "/api/v1/events"


async def post(client: TestClient, events: Any, *keys: str) -> ClientResponse:
    """Publish with idempotency keys; return the response."""
    headers = [*WITH_KEY.items(), *(("Idempotency-Key", key) for key in keys)]
    return await client.post(EVENTS, json=events, headers=headers)


async def publish(client: TestClient, events: Any, *keys: str) -> tuple[int, Any]:
    """Publish with idempotency keys; return the status and the body."""
    response = await post(client, events, *keys)
    return response.status, await response.json()


async def titles(client: TestClient) -> list[str]:
    """Return the titles in the history of the room."""
    response = await client.get("/api/v1/rooms/task:1/history", headers=WITH_KEY)
    return [event["data"]["title"] for event in (await response.json())["events"]]


class SlowBroker(MemoryBroker):
    """A broker that publishes when the test sets ``let``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.let = asyncio.Event()

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        self.asked.set()
        await self.let.wait()
        return await super().publish_many(publications)


class LosingBroker(MemoryBroker):
    """A broker that loses its connection once, before or after it publishes."""

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


@pytest.mark.parametrize(
    "events", [task_created(), [task_created("A"), task_created("B")], []], ids=["one", "list", "empty"]
)
async def test_a_repeat_gets_the_first_response(gateway_client: GatewayClient, events: Any):
    """The same body with the same key is published once. The second response is marked as replayed."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join("task:1")
        await alice.recv_type("user_joined")
        first = await publish(client, events, "k-1")
        assert first[0] == 200
        once = await alice.settled()
        response = await post(client, events, "k-1")
        assert (response.status, await response.json()) == first
        assert response.headers["Idempotency-Replayed"] == "true"
        assert len(once) == (len(events) if isinstance(events, list) else 1)
        assert await alice.settled() == []


async def test_equal_bodies_without_the_same_key_are_all_published(gateway_client: GatewayClient):
    """Only the key makes a request a repeat."""
    client = await gateway_client()
    answers = [await publish(client, task_created(), "k-1"), await publish(client, task_created(), "k-2")]
    answers += [await publish(client, task_created()), await publish(client, task_created())]
    assert len({body["id"] for _, body in answers}) == 4


async def test_a_key_with_another_body_is_refused(gateway_client: GatewayClient):
    """The second body is not published, and the first request can still be repeated (draft, section 2.7)."""
    client = await gateway_client()
    first = await publish(client, task_created("A"), "k-1")
    status, body = await publish(client, task_created("B"), "k-1")
    assert (status, body["code"]) == (422, "key_reused")
    assert "new key" in body["error"]
    assert await titles(client) == ["A"]
    assert await publish(client, task_created("A"), "k-1") == first


async def test_a_refused_request_does_not_use_up_its_key(gateway_client: GatewayClient):
    """The corrected request is published with the same key."""
    client = await gateway_client()
    assert (await publish(client, [task_created("A"), task_created("B", "nowhere")], "k-1"))[0] == 422
    assert (await publish(client, [task_created("A"), task_created("B")], "k-1"))[0] == 200
    assert await titles(client) == ["A", "B"]


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb", "schlüssel"])
async def test_an_invalid_key_is_refused(gateway_client: GatewayClient, key: str):
    """An empty key, a long one, and one with other than printable ASCII characters get 400."""
    client = await gateway_client()
    status, body = await publish(client, task_created(), key)
    assert (status, body["code"]) == (400, "bad_idempotency_key")
    assert await titles(client) == []


async def test_two_keys_are_refused(gateway_client: GatewayClient):
    """A request with two Idempotency-Key headers is refused, because it is unclear which one counts."""
    client = await gateway_client()
    status, body = await publish(client, task_created(), "a", "b")
    assert (status, body["code"]) == (400, "bad_idempotency_key")


async def test_a_key_may_have_128_printable_characters(gateway_client: GatewayClient):
    """A key of that length is accepted, and may contain spaces and slashes."""
    client = await gateway_client()
    key = ' !"/:*{}~'.strip().ljust(127, " ") + "."
    assert (await publish(client, task_created(), key)) == (await publish(client, task_created(), key))
    assert await titles(client) == ["A"]


async def test_similar_keys_are_different(gateway_client: GatewayClient):
    """A key never equals the key of an item in a list, or a key of a user's command."""
    client = await gateway_client()
    async with connect(client, user_id="http", username="mallory") as mallory:
        await mallory.join("channel:1")
        await mallory.send("send_message", "channel:1", {"content": "mine"}, key="k-1", id=1)
        await mallory.recv_type("sent", id=1)
        message = {"content": "theirs", "username": "bot", "user_id": 0}
        events = [{"type": "message", "room": "channel:1", "data": message}] * 2
        for key, count in (("k-1", 2), ("k-1/0", 2), ("k-1/1", 2)):
            assert (await publish(client, events, key))[0] == 200
            received = await mallory.settled()
            assert len([frame for frame in received if frame["data"].get("content") == "theirs"]) == count


async def test_a_repeat_waits_for_a_running_request(gateway_client: GatewayClient):
    """All repeats get the same response, and the events are published once."""
    broker = SlowBroker()
    client = await gateway_client(broker=broker)
    first = asyncio.create_task(publish(client, task_created(), "k-1"))
    await broker.asked.wait()
    broker.asked.clear()
    repeats = [asyncio.create_task(publish(client, task_created(), "k-1")) for _ in range(3)]
    for _ in range(3):  # the repeats have arrived when later requests are answered
        assert (await client.get("/api/v1/rooms", headers=WITH_KEY)).status == 200
    assert not any(task.done() for task in (first, *repeats))
    assert not broker.asked.is_set()
    broker.let.set()
    answers = [await task for task in (first, *repeats)]
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200
    assert await titles(client) == ["A"]


async def test_a_repeat_waits_for_at_most_handler_timeout(gateway_client: GatewayClient):
    """After that time the repeat gets 409 with Retry-After, while the first request continues."""
    broker = SlowBroker()
    client = await gateway_client(broker=broker, handler_timeout=0.1)
    first = asyncio.create_task(publish(client, task_created(), "k-1"))
    await broker.asked.wait()
    response = await post(client, task_created(), "k-1")
    assert (response.status, response.headers["Retry-After"]) == (409, "1")
    assert (await response.json())["code"] == "in_progress"
    broker.let.set()
    assert (await first)[0] == 200
    assert await publish(client, task_created(), "k-1") == await first
    assert await titles(client) == ["A"]


@pytest.mark.parametrize("after", [False, True])
async def test_a_failed_request_can_be_repeated(gateway_client: GatewayClient, after: bool):
    """The events are published once, even if the broker failed after it had published them."""
    client = await gateway_client(broker=LosingBroker(after=after))
    status, body = await publish(client, [task_created("A"), task_created("B")], "k-1")
    assert (status, body["code"]) == (503, "unavailable")
    status, body = await publish(client, [task_created("A"), task_created("B")], "k-1")
    assert (status, len(set(body["ids"]))) == (200, 2)
    assert await titles(client) == ["A", "B"]
