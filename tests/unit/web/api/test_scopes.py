"""Named keys over HTTP: scopes, rooms, idempotency keys, the console, and what the log says about them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import KEY, WITH_KEY, GatewayClient, bearer, connect, task_created

from roomcast.specs.openapi import openapi
from roomcast.web import console_session
from roomcast.web.app_state import GATEWAY

PUBLISHER, READER, MODERATOR = "publisher-key-1234567", "reader-key-12345678901", "moderator-key-1234567"
TEAM = "key-of-one-team-12345678"
NAMED = {
    "publisher": {"key": PUBLISHER, "scopes": ["publish"]},
    "reader": {"key": READER, "scopes": ["read"]},
    "moderator": {"key": MODERATOR, "scopes": ["moderate"]},
    "team": {"key": TEAM, "scopes": ["publish", "read", "moderate"], "rooms": ["task:*", "channel:1", "user:7"]},
}
EVENTS = "/api/v1/events"
#: Each call with the scope that it needs.
CALLS = [
    ("POST", EVENTS, "publish"),
    ("GET", "/api/v1/rooms", "read"),
    ("GET", "/api/v1/rooms/{room}/members", "read"),
    ("GET", "/api/v1/rooms/{room}/history", "read"),
    ("DELETE", "/api/v1/rooms/{room}/members/{user_id}", "moderate"),
    ("GET", "/api/v1/users/{user_id}", "read"),
    ("POST", "/api/v1/users/status", "read"),
    ("DELETE", "/api/v1/users/{user_id}/connections", "moderate"),
    ("DELETE", "/api/v1/users/{user_id}/tokens", "moderate"),
    ("DELETE", "/api/v1/users/{user_id}/tokens/{jti}", "moderate"),
    ("GET", "/plugins/webhook/dead-letters", "read"),
    ("POST", "/plugins/webhook/dead-letters/retry", "moderate"),
    ("POST", "/plugins/webhook/dead-letters/delete", "moderate"),
]


@pytest.fixture
async def client(gateway_client: GatewayClient) -> TestClient[Any, Any]:
    """A server with named keys besides ``KEY``, and a console."""
    return await gateway_client(api_keys=json.dumps(NAMED), console=True)


async def send(client: TestClient, method: str, path: str, key: str, room: str = "task:1") -> tuple[int, Any]:
    """Make a call with valid parameters; return the status and the body."""
    path = path.format(room=room, user_id=9, jti="x")
    body = {"user_ids": [9]} if path.endswith("/status") else task_created(room=room) if method == "POST" else None
    response = await client.request(method, path, json=body, headers=bearer(key))
    return response.status, await response.json()


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
async def test_each_call_needs_its_scope(client: TestClient, method: str, path: str, scope: str):
    """Without the scope, the call gets 403 and a sentence that names it. API_KEY has all scopes."""
    for name, key in (("publish", PUBLISHER), ("read", READER), ("moderate", MODERATOR)):
        status, body = await send(client, method, path, key)
        if name == scope:
            assert status == 200
        else:
            assert (status, body["code"]) == (403, "missing_scope")
            assert body["error"].startswith(f"This call needs a key with the scope {scope}; the key ")
            assert body["error"].endswith(f" has {name}.")
    assert (await send(client, method, path, KEY))[0] == 200


async def test_every_call_states_its_scope(client: TestClient):
    """The handlers, the OpenAPI document and the list in this test agree."""
    found = {
        (method, info["formatter"] if "formatter" in (info := resource.get_info()) else info["path"], route.handler)
        for resource in client.app.router.resources()
        for route in resource
        if (method := route.method) not in ("HEAD", "OPTIONS", "*")
    }
    scopes = {(method, path, handler.scope) for method, path, handler in found if hasattr(handler, "scope")}
    assert scopes == set(CALLS)
    document = openapi(client.app[GATEWAY].registry)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            stated = [scope for one in operation.get("security", ()) for scope in one.get("apiKey", ())]
            assert stated == [scope for *call, scope in CALLS if call == [method.upper(), path]]


@pytest.mark.parametrize(
    ("method", "path", "scope"), [call for call in CALLS if "{room}" in call[1] or call[1] == EVENTS]
)
async def test_a_key_for_some_rooms(client: TestClient, method: str, path: str, scope: str):
    """A call for another room gets 403. The sentence has the room and the patterns."""
    for room in ("task:1", "task:2", "channel:1"):
        assert (await send(client, method, path, TEAM, room))[0] == 200
    for room in ("project:1", "channel:11", "user:8"):
        status, body = await send(client, method, path, TEAM, room)
        assert (status, body["code"]) == (403, "forbidden_room")
        assert body["error"] == f"This call is for {room}; the key team is limited to task:*, channel:1, user:7."
        assert (await send(client, method, path, KEY, room))[0] == 200


async def test_a_list_with_forbidden_rooms(client: TestClient):
    """The 403 names each event in a room that the key does not allow; none of the list is published."""
    rooms = ["task:1", "project:1", "task:1", "user:8"]
    response = await client.post(EVENTS, json=[task_created(room=room) for room in rooms], headers=bearer(TEAM))
    body = await response.json()
    assert (response.status, body["code"]) == (403, "forbidden_room")
    assert [(item["index"], item["field"], item["code"]) for item in body["items"]] == [
        (1, "room", "forbidden_room"),
        (3, "room", "forbidden_room"),
    ]
    assert (await send(client, "GET", "/api/v1/rooms/{room}/history", TEAM))[1]["events"] == []


async def test_the_keys_of_events_belong_to_the_api_key(client: TestClient):
    """The same key of an event, used with another API key, is a different key."""
    ids = []
    for key in (PUBLISHER, TEAM, KEY, PUBLISHER):
        event = task_created(room="task:1") | {"key": "k"}
        ids.append((await (await client.post(EVENTS, json=event, headers=bearer(key))).json())["id"])
    assert ids[3] == ids[0]
    assert len(set(ids)) == 3


async def test_personal_rooms(client: TestClient):
    """A key may be for the notifications of one user. Other ways to write its room do not help."""
    event = {"type": "notification.new", "data": {"title": "A", "message": "B"}}
    for room, status in (("user:7", 200), ("user:%37", 200), ("user:8", 403), ("user:77", 403)):
        response = await client.post(EVENTS, json={**event, "room": room}, headers=bearer(TEAM))
        assert response.status == status


async def test_one_forbidden_room_in_a_list(client: TestClient):
    """Nothing is published."""
    events = [task_created(room="task:1"), task_created(room="project:1")]
    response = await client.post(EVENTS, json=events, headers=bearer(TEAM))
    assert (response.status, (await response.json())["code"]) == (403, "forbidden_room")
    assert (await send(client, "GET", "/api/v1/rooms/{room}/history", KEY))[1]["events"] == []


async def test_the_list_of_rooms(client: TestClient):
    """It has only the rooms that the key allows."""
    async with connect(client) as alice:
        for room in ("task:1", "project:1", "channel:1", "channel:2"):
            await alice.join(room)
        for key, rooms in (
            (TEAM, ["channel:1", "task:1"]),
            (READER, ["channel:1", "channel:2", "project:1", "task:1"]),
        ):
            status, body = await send(client, "GET", "/api/v1/rooms", key)
            assert (status, [one["room"] for one in body["rooms"]]) == (200, rooms)


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in CALLS if "/users/" in path])
async def test_calls_for_all_rooms_of_a_user(client: TestClient, method: str, path: str):
    """A key for some rooms cannot read a user's status, disconnect users or revoke tokens: it concerns other rooms."""
    async with connect(client, 9) as nine:
        status, body = await send(client, method, path, TEAM)
        assert (status, body["code"]) == (403, "forbidden_room")
        assert body["error"].startswith("This call concerns a user in all rooms; the key team is limited to task:*")
        await nine.settled()


async def test_idempotency_keys_belong_to_their_api_key(client: TestClient):
    """A named key that repeats another's idempotency key publishes its own event, and does not get the other's id."""
    ids = []
    for key in (KEY, PUBLISHER, TEAM, KEY, PUBLISHER, TEAM):
        response = await client.post(
            EVENTS, json=task_created(), headers={**bearer(key), "Idempotency-Key": "team:same"}
        )
        ids.append((await response.json())["id"])
        assert ("Idempotency-Replayed" in response.headers) is (len(ids) > 3)
    assert len(set(ids[:3])) == 3 and ids[:3] == ids[3:]
    # No idempotency key of the unnamed API key equals one of a named key.
    for forged in ("team:team:same", ".team:team:same", "http.team:team:same"):
        headers = {**WITH_KEY, "Idempotency-Key": forged}
        response = await client.post(EVENTS, json=task_created(), headers=headers)
        assert "Idempotency-Replayed" not in response.headers


async def test_only_keys_that_read_everything_see_details(client: TestClient):
    """A backend that only publishes, or reads some rooms, does not learn the addresses of servers."""
    await client.app[GATEWAY].broker.close()
    for key, sees in ((KEY, True), (READER, True), (PUBLISHER, False), (TEAM, False)):
        path = "/api/v1/rooms" if key == READER else EVENTS
        status, body = await send(client, "GET" if key == READER else "POST", path, key)
        assert (status, "detail" in body) == (503, sees)
        health = await (await client.get("/health/ready", headers=bearer(key))).json()
        assert ("embedded broker" in health["parts"]["broker"]) is sees


async def test_the_console_with_a_named_key(client: TestClient, caplog: pytest.LogCaptureFixture):
    """Its user may do what the key allows, and is told what is missing. The log has the name of the key."""
    with caplog.at_level(logging.INFO, logger="roomcast"):
        response = await client.post("/console/login", data={"key": TEAM}, allow_redirects=False)
    assert response.status == 303
    assert "console login with the key team from 127.0.0.1" in caplog.text
    assert 'id="log-rows"' in await (await client.get("/console")).text()
    console = {console_session.HEADER: "1"}
    assert (await client.get("/api/v1/rooms/task:1/members", headers=console)).status == 200
    response = await client.get("/api/v1/rooms/project:1/members", headers=console)
    assert (response.status, (await response.json())["code"]) == (403, "forbidden_room")


async def test_a_session_ends_with_its_key(gateway_client: GatewayClient):
    """Another server with other named keys does not accept the cookie of a key that it does not have."""
    client = await gateway_client(api_keys=json.dumps(NAMED), console=True)
    await client.post("/console/login", data={"key": READER}, allow_redirects=False)
    gateway, console = client.app[GATEWAY], {console_session.HEADER: "1"}
    assert (await client.get("/api/v1/rooms", headers=console)).status == 200
    without = {name: entry for name, entry in NAMED.items() if name != "reader"}
    gateway.use_keys(gateway.settings.read_again(("api_keys",), {"API_KEYS": json.dumps(without)}))
    assert (await client.get("/api/v1/rooms", headers=console)).status == 401
    assert (await client.get("/api/v1/rooms", headers=bearer(READER))).status == 401
    assert (await client.get("/api/v1/rooms", headers=bearer(TEAM))).status == 200


async def test_the_log_names_the_key(client: TestClient, caplog: pytest.LogCaptureFixture):
    """Removals, disconnections and revocations are logged with the name of the key, and no key is."""
    with caplog.at_level(logging.INFO, logger="roomcast"):
        for method, path, scope in CALLS:
            if scope == "moderate":
                assert (await send(client, method, path, MODERATOR))[0] == 200
        for _ in range(3):
            await send(client, "GET", "/api/v1/rooms", PUBLISHER)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "with the key" in line] == [
        "removed user 9 from task:1, with the key moderator from 127.0.0.1",
        "disconnected user 9, with the key moderator from 127.0.0.1",
        next(line for line in lines if line.startswith("revoked the tokens of user 9 from before ")),
        "revoked a token of user 9, with the key moderator from 127.0.0.1",
    ]
    refused = [line for line in lines if line.startswith("refused GET /api/v1/rooms: This call needs")]
    assert len(refused) == 1 and "the key publisher has publish" in refused[0]
    assert not [key for key in (KEY, PUBLISHER, MODERATOR) if key in caplog.text]


async def test_only_named_keys(gateway_client: GatewayClient):
    """The API is on without API_KEY if there is a named key, and off without both."""
    client = await gateway_client(api_key=None, api_keys=json.dumps(NAMED))
    assert (await send(client, "GET", "/api/v1/rooms", READER))[0] == 200
    assert (await send(client, "GET", "/api/v1/rooms", KEY))[0] == 401
    client = await gateway_client(api_key=None)
    assert (await send(client, "GET", "/api/v1/rooms", READER))[1]["code"] == "api_off"
