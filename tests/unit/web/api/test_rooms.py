"""``/api/v1/rooms``: lists of rooms and members, the history, and removing a user from a room."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import WITH_KEY, GatewayClient, connect
from yarl import URL

ROOMS = "/api/v1/rooms"


async def get(client: TestClient, path: str) -> tuple[int, Any]:
    """Return the status and the body of a GET."""
    response = await client.get(path, headers=WITH_KEY)
    return response.status, await response.json()


async def delete(client: TestClient, path: str) -> tuple[int, Any]:
    """Return the status and the body of a DELETE."""
    response = await client.delete(path, headers=WITH_KEY)
    return response.status, await response.json()


async def publish_three(client: TestClient, room: str = "channel:1") -> None:
    """Publish three messages in ``room``."""
    data = {"username": "bot", "user_id": 0}
    events = [{"type": "message", "room": room, "data": {**data, "content": content}} for content in "abc"]
    assert (await client.post("/api/v1/events", json=events, headers=WITH_KEY)).status == 200


async def test_rooms_are_listed_with_their_numbers_of_users(gateway_client: GatewayClient):
    """Rooms are sorted by name. Users with several connections count once; empty and personal rooms are missing."""
    client = await gateway_client()
    assert await get(client, ROOMS) == (200, {"rooms": []})
    async with connect(client) as alice, connect(client) as tab, connect(client, 2, "bob") as bob:
        await alice.join("task:1")
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await bob.join("task:2")
        await bob.send("leave_room", "task:2")
        await bob.recv_type("left_room")
        rooms = [{"room": "channel:1", "members": 2}, {"room": "task:1", "members": 1}]
        assert await get(client, ROOMS) == (200, {"rooms": rooms})


async def test_members_are_listed_with_their_connections(gateway_client: GatewayClient):
    """Each user is listed once, in order of arrival, with the number of connections in the room."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client) as tab, connect(client, "bob-2", "bob") as bob:
        for one in (bob, alice, tab):
            await one.join("channel:1")
        members = [
            {"user_id": "bob-2", "username": "bob", "connections": 1},
            {"user_id": 1, "username": "alice", "connections": 2},
        ]
        path = f"{ROOMS}/channel:1/members"
        assert await get(client, path) == (200, {"room": "channel:1", "members": members})
        await tab.socket.close()
        await alice.send("leave_room", "channel:1")
        await bob.recv_type("user_left")
        assert await get(client, path) == (200, {"room": "channel:1", "members": members[:1]})
    assert await get(client, f"{ROOMS}/task:9/members") == (200, {"room": "task:9", "members": []})


async def test_the_history_has_the_events_as_clients_received_them(gateway_client: GatewayClient):
    """The oldest event is first, and ``last_id`` is the id from which to continue."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join("channel:1")
        await alice.recv_type("user_joined")
        await publish_three(client)
        received = [await alice.recv_type("message") for _ in range(3)]
    status, body = await get(client, f"{ROOMS}/channel:1/history?limit=4")
    assert (status, body["room"], body["recovered"]) == (200, "channel:1", True)
    assert body["events"] == received
    assert body["last_id"] == received[2]["id"]


async def test_the_history_continues_after_an_id(gateway_client: GatewayClient):
    """With ``since`` the response has the oldest ``limit`` events after that id, else the newest ``limit`` events."""
    client = await gateway_client()
    await publish_three(client)
    path = f"{ROOMS}/channel:1/history"
    _, everything = await get(client, path)
    a, b, c = everything["events"]
    for query, events, recovered, more in [
        (f"since={a['id']}", [b, c], True, False),
        (f"since={c['id']}", [], True, False),
        (f"since={c['id']}&limit=1", [], True, False),
        (f"since={a['id']}&limit=2", [b, c], True, False),
        (f"since={a['id']}&limit=1", [b], True, True),
        (f"since={b['id']}&limit=1", [c], True, False),
        ("since=elsewhere-1", [], False, False),
        ("since=", [], False, False),
        ("limit=2", [b, c], True, False),
        ("limit=1000", [a, b, c], True, False),
    ]:
        status, body = await get(client, f"{path}?{query}")
        assert (status, body["events"], body["recovered"], body["more"]) == (200, events, recovered, more), query
        assert body["last_id"] == c["id"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "sinse=1-1", "limit=1&limit=2"]
)
async def test_a_wrong_query_is_refused(gateway_client: GatewayClient, query: str):
    """The error names the parameter. If a misspelt ``since`` were ignored, the response would contain all events."""
    client = await gateway_client()
    status, body = await get(client, f"{ROOMS}/channel:1/history?{query}")
    assert (status, body["code"]) == (400, "bad_query")
    assert query.partition("=")[0] in body["error"]


async def test_a_kick_removes_all_connections_of_the_user(gateway_client: GatewayClient):
    """The user and the room receive frames, other users stay, and the user may join again."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client) as tab, connect(client, 2, "bob") as bob:
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await alice.join("channel:2")
        path = f"{ROOMS}/channel:1/members/1"
        assert await delete(client, path) == (200, {"room": "channel:1", "user_id": 1, "connections": 2})
        for one in (alice, tab):
            assert (await one.recv_type("left_room"))["room"] == "channel:1"
        assert (await bob.recv_type("user_left"))["data"]["user_id"] == 1
        await publish_three(client)
        assert not [frame for frame in await alice.settled() if frame["type"] == "message"]
        assert len([frame for frame in await bob.settled() if frame["type"] == "message"]) == 3
        rooms = [{"room": "channel:1", "members": 1}, {"room": "channel:2", "members": 1}]
        assert await get(client, ROOMS) == (200, {"rooms": rooms})
        assert (await alice.join("channel:1"))["room"] == "channel:1"


async def test_a_kick_of_an_absent_user_is_not_an_error(gateway_client: GatewayClient):
    """The response has 0 connections."""
    client = await gateway_client()
    kicked = {"room": "channel:1", "user_id": 1, "connections": 0}
    assert await delete(client, f"{ROOMS}/channel:1/members/1") == (200, kicked)


@pytest.mark.parametrize("tail", ["members", "history", "members/1"])
@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("nowhere", "bad_room"),
        ("channel:*", "bad_room"),
        ("channel:%7B1%7D", "bad_room"),
        ("channel:1%0d%0aX", "bad_room"),
        ("channel:a%2Fb", "bad_room"),
        ("channel:%FF", "bad_room"),
        ("channel:" + "1" * 129, "bad_room"),
        ("planet:1", "unknown_room_type"),
    ],
)
async def test_an_invalid_room_is_422(gateway_client: GatewayClient, room: str, code: str, tail: str):
    """The response has an error sentence, for any characters in the name."""
    client = await gateway_client()
    method = "DELETE" if tail == "members/1" else "GET"
    response = await client.request(method, URL(f"{ROOMS}/{room}/{tail}", encoded=True), headers=WITH_KEY)
    body = await response.json()
    assert (response.status, body["code"]) == (422, code)
    assert body["error"].endswith(".")
