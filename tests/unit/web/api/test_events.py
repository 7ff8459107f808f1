"""``POST /api/v1/events``: publishing events, and bodies that are broken, too large or too slow."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import KEY, WITH_KEY, GatewayClient, Serve, connect, task_created
from wire import Peer

from roomcast import Plugin

EVENTS = "/api/v1/events"
ROOM = "project:123"


async def publish(client: TestClient, events: Any) -> tuple[int, Any]:
    """Publish ``events``; return the status and the body."""
    response = await client.post(EVENTS, json=events, headers=WITH_KEY)
    return response.status, await response.json()


async def post(client: TestClient, body: Any, **headers: str) -> tuple[int, Any]:
    """Send ``body`` unchanged; return the status and the body of the response."""
    response = await client.post(EVENTS, data=body, headers=WITH_KEY | headers)
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
        assert [event["type"] for event in await history(client)] == ["user_joined"]
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


# Bodies


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "truncated"),
        (b'{"type": "task.created"', "truncated"),
        (b'{"type":\n  NaN}', "line 2, column 3"),
        (b"{} {}", "line 1, column 5"),
        (b'{"room": ' + b"1" * 5000 + b"}", "out of range"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"type": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        (b"type=task.created&room=project%3A1", "invalid character"),
    ],
    ids=["empty", "cut", "NaN", "two", "5000 digits", "deep", "bytes", "BOM", "form"],
)
async def test_the_error_for_broken_json_has_the_position(gateway_client: GatewayClient, body: bytes, expected: str):
    """The response is 400, and the next request succeeds."""
    client = await gateway_client()
    status, refusal = await post(client, body)
    assert (status, refusal["code"]) == (400, "bad_json")
    assert expected in refusal["error"]
    assert (await publish(client, task_created()))[0] == 200


async def test_a_body_has_at_most_a_mebibyte(gateway_client: GatewayClient):
    """A larger body gets 413 in JSON, with or without a Content-Length."""
    client = await gateway_client()
    exact = json.dumps([task_created()]).encode().ljust(1024 * 1024)
    assert (await post(client, exact))[0] == 200

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(exact), 65536):
            yield exact[start : start + 65536]
        yield b" "

    for data in (io.BytesIO(exact + b" "), chunks()):
        status, refusal = await post(client, data)
        assert (status, refusal["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in refusal["error"]


async def test_the_limit_applies_to_the_uncompressed_body(
    gateway_client: GatewayClient, caplog: pytest.LogCaptureFixture
):
    """A small body that expands to more than a mebibyte is refused, and so is a body that is not compressed."""
    client = await gateway_client()
    deflate = {"Content-Encoding": "deflate"}
    good = zlib.compress(json.dumps(task_created()).encode())
    assert (await post(client, good, **deflate))[0] == 200
    bomb = zlib.compress(b" " * 64 * 1024 * 1024)
    assert len(bomb) < 1024 * 1024
    status, refusal = await post(client, bomb, **deflate)
    assert (status, refusal["code"]) == (413, "body_too_large")
    status, refusal = await post(client, b"\x00" * 100, **deflate)
    assert (status, refusal["code"]) == (400, "bad_body")
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_body_that_stops_is_408(serve: Serve):
    """After HANDSHAKE_TIMEOUT the server answers and closes the connection."""
    server = await serve(handshake_timeout=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
    await peer.send(head.encode() + b'{"type":')
    answered = (await peer.head()).decode()
    assert answered.startswith("HTTP/1.1 408 ")
    assert "application/json" in answered
    assert "connection: close" in answered.lower()
    body = await peer.read(int(re.search("(?i)content-length: ([0-9]+)", answered)[1]))
    assert json.loads(body)["code"] == "body_too_slow"
    assert await peer.hung_up()
    peer.close()
