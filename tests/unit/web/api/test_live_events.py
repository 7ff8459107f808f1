"""``POST /api/v1/events`` with events that are not stored."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from marshmallow import Schema, fields
from serving import WITH_KEY, GatewayClient, connect, task_created

from roomcast import Plugin
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import BrokerUnavailable

EVENTS = "/api/v1/events"
ROOM = "project:123"

demo = Plugin("demo")


@demo.event("demo.progress", stored=False, conflate=True)
class Progress(Schema):
    """How far a build is."""

    percent = fields.Integer(required=True)


def progress(percent: Any, **fields: Any) -> dict[str, Any]:
    """Return an event."""
    return {"type": "demo.progress", "room": ROOM, "data": {"percent": percent}, **fields}


async def publish(client: TestClient, events: Any, **headers: str) -> tuple[int, Any]:
    """Publish ``events``; return the status and the body."""
    response = await client.post(EVENTS, json=events, headers={**WITH_KEY, **headers})
    return response.status, await response.json()


async def test_a_live_event(gateway_client: GatewayClient) -> None:
    """The id of the response is null; members receive the event without an id, and the history does not have it."""
    client = await gateway_client(plugins=[demo])
    async with connect(client) as alice:
        await alice.join(ROOM)
        assert await publish(client, progress(50, sender="ci")) == (200, {"id": None})
        event = await alice.recv_type("demo.progress")
        assert event.pop("timestamp").endswith("Z")
        assert event == progress(50, sender="ci")
    response = await client.get(f"/api/v1/rooms/{ROOM}/history", headers=WITH_KEY)
    assert (await response.json())["events"] == []


async def test_a_list_with_both_kinds(gateway_client: GatewayClient) -> None:
    """The ids have the order of the list, with null for live events; of conflated ones the newest arrives."""
    client = await gateway_client(plugins=[demo])
    async with connect(client) as alice:
        await alice.join(ROOM)
        events = [progress(1), task_created("A", ROOM), progress(2), task_created("B", ROOM), progress(3)]
        status, body = await publish(client, events)
        assert status == 200
        assert [id is None for id in body["ids"]] == [True, False, True, False, True]
        received = [await alice.recv_type("task.created") for _ in range(2)]
        assert [event["id"] for event in received] == [body["ids"][1], body["ids"][3]]
        # A live event has no order with stored ones, so it may have arrived before them.
        arrived = [frame for frame in alice.frames if frame["type"] == "demo.progress"]
        assert [frame["data"] for frame in arrived or [await alice.recv_type("demo.progress")]] == [{"percent": 3}]


async def test_all_or_none(gateway_client: GatewayClient) -> None:
    """If one event of a list is invalid, none is sent."""
    client = await gateway_client(plugins=[demo])
    async with connect(client) as alice:
        await alice.join(ROOM)
        status, body = await publish(client, [progress(1), progress("much")])
        assert (status, body["items"][0]["field"]) == (422, "data.percent")
        assert (await publish(client, [progress(1), task_created("A", "nowhere:1")]))[0] == 422
        assert "demo.progress" not in [frame["type"] for frame in await alice.settled()]


async def test_an_idempotency_key(gateway_client: GatewayClient) -> None:
    """A repeat with the key gets the first response and sends nothing."""
    client = await gateway_client(plugins=[demo])
    async with connect(client) as alice:
        await alice.join(ROOM)
        for _ in range(2):
            assert await publish(client, progress(1), **{"Idempotency-Key": "k1"}) == (200, {"id": None})
        assert (await alice.recv_type("demo.progress"))["key"] == "k1"
        assert "demo.progress" not in [frame["type"] for frame in await alice.settled()]


async def test_the_broker_is_unavailable(gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with live events only fails with 503; one whose stored events were published does not."""
    client = await gateway_client(plugins=[demo])

    def fail(self: MemoryBroker, room: str, payload: bytes) -> None:
        raise BrokerUnavailable("a test has stopped it")

    monkeypatch.setattr(MemoryBroker, "broadcast", fail)
    status, body = await publish(client, progress(1))
    assert (status, body["code"]) == (503, "unavailable")
    status, body = await publish(client, [progress(1), task_created("A", ROOM)])
    assert (status, body["ids"][0]) == (200, None)


async def test_typing_from_a_backend(gateway_client: GatewayClient) -> None:
    """A backend can send ``typing`` of the chat, for a bot for example."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join(ROOM)
        data = {"user_id": "bot", "username": "Bot", "typing": True}
        event = {"type": "typing", "room": ROOM, "data": data, "sender": "Bot"}
        assert await publish(client, event) == (200, {"id": None})
        assert (await alice.recv_type("typing"))["data"] == data
