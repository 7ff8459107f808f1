"""``POST /api/v1/events``: publishing single events and lists."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import WITH_KEY, GatewayClient, connect, task_created

from roomcast import Plugin

EVENTS = "/api/v1/events"
ROOM = "project:123"


async def publish(client: TestClient, events: Any) -> tuple[int, Any]:
    """Publish ``events``; return the status and the body."""
    response = await client.post(EVENTS, json=events, headers=WITH_KEY)
    return response.status, await response.json()


async def history(client: TestClient) -> list[dict[str, Any]]:
    """Return the events in the history of ``ROOM``."""
    response = await client.get(f"/api/v1/rooms/{ROOM}/history", headers=WITH_KEY)
    return (await response.json())["events"]


async def test_an_event_is_sent_to_the_room_with_the_returned_id(gateway_client: GatewayClient):
    """Every member receives the event in the envelope of docs/protocol.md, with the id of the response."""
    client = await gateway_client()
    published = task_created("New feature", ROOM) | {"sender": "alice"}
    async with connect(client) as alice:
        await alice.join(ROOM)
        await alice.recv_type("user_joined")
        status, body = await publish(client, published)
        assert status == 200
        event = await alice.recv()
        assert event.pop("timestamp").endswith("Z")
        assert event == {**published, **body}
        assert list(body) == ["id"]


async def test_a_list_is_published_in_order(gateway_client: GatewayClient):
    """The ids are in the order of the list, and members receive the events in that order."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join(ROOM)
        status, body = await publish(client, [task_created(title, ROOM) for title in "abc"])
        assert status == 200
        received = [await alice.recv_type("task.created") for _ in range(3)]
        assert [event["id"] for event in received] == body["ids"]
        assert [event["data"]["title"] for event in received] == ["a", "b", "c"]


async def test_an_empty_list_is_accepted(gateway_client: GatewayClient):
    """A backend with nothing to publish gets no error."""
    assert await publish(await gateway_client(), []) == (200, {"ids": []})


async def test_a_notification_is_sent_only_to_its_user(gateway_client: GatewayClient):
    """An event of a personal room has no room, and a sender only if one was given."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client, 2, "bob") as bob:
        data = {"title": "You were mentioned", "message": "by Bob"}
        for sender in ({}, {"sender": None}, {"sender": "bob"}):
            event = {"type": "notification.new", "room": "user:1", "data": data}
            assert (await publish(client, event | sender))[0] == 200
        received = await alice.settled()
        assert [event.get("sender", "nobody") for event in received] == ["nobody", "nobody", "bob"]
        assert not any("room" in event for event in received)
        assert received[0]["data"] == {**data, "priority": "normal"}
        assert await bob.settled() == []


async def test_a_list_with_a_bad_event_is_not_published(gateway_client: GatewayClient):
    """No event of the list reaches members or the history. The next list is published as usual."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join(ROOM)
        await alice.recv_type("user_joined")
        events = [task_created("a", ROOM), task_created("b", "nowhere"), task_created("c", ROOM)]
        status, body = await publish(client, events)
        assert (status, body["code"]) == (422, "invalid_events")
        assert body["error"].startswith(
            "1 of 3 events cannot be published, so none was published. At index 1: room 'nowhere' is not"
        )
        assert [(item["index"], item["field"]) for item in body["items"]] == [(1, "room")]
        assert await alice.settled() == []
        assert await history(client) == []
        assert (await publish(client, [task_created("d", ROOM)]))[0] == 200
        assert (await alice.recv())["data"]["title"] == "d"


async def test_a_list_has_at_most_1000_events(gateway_client: GatewayClient):
    """A longer list is refused as a whole."""
    client = await gateway_client(history_size=2000)
    status, body = await publish(client, [task_created(room=ROOM)] * 1001)
    assert (status, body["code"]) == (422, "too_many_events")
    assert "1001" in body["error"]
    assert "1000" in body["error"]
    assert await history(client) == []
    status, body = await publish(client, [task_created(room=ROOM)] * 1000)
    assert (status, len(set(body["ids"]))) == (200, 1000)


async def test_an_exception_in_a_schema_is_500(
    gateway_client: GatewayClient, caplog: pytest.LogCaptureFixture, broken_plugin: Plugin
):
    """The reason is only in the log, and the next request succeeds."""
    client = await gateway_client(plugins=[broken_plugin])
    status, body = await publish(client, {"type": "broken.event", "room": "task:1", "data": {"x": ""}})
    assert (status, body["code"]) == (500, "internal")
    assert "no thought" not in body["error"]
    assert "no thought was given to ''" in caplog.text
    assert (await publish(client, task_created()))[0] == 200
