"""Behaviour of every endpoint of the HTTP API: the key, an unavailable broker, unknown paths and caches."""

from __future__ import annotations

import json

import pytest
from serving import KEY, WITH_KEY, GatewayClient, bearer, connect, task_created

from roomcast.web.app_state import GATEWAY

EVENTS = "/api/v1/events"
ENDPOINTS = [
    ("POST", EVENTS),
    ("GET", "/api/v1/rooms"),
    ("GET", "/api/v1/rooms/channel:1/members"),
    ("GET", "/api/v1/rooms/channel:1/history"),
    ("DELETE", "/api/v1/rooms/channel:1/members/1"),
    ("DELETE", "/api/v1/users/1/connections"),
    ("DELETE", "/api/v1/users/1/tokens"),
    ("DELETE", "/api/v1/users/1/tokens/t"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_without_the_key_a_request_has_no_effect(gateway_client: GatewayClient, method: str, path: str):
    """No key, a wrong key and another scheme get 401 with a challenge, and the users stay connected."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join("channel:1")
        for headers in ({}, bearer(f"{KEY}x"), {"Authorization": f"Basic {KEY}"}):
            response = await client.request(method, path, json=task_created(room="channel:1"), headers=headers)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer ")
            body = await response.json()
            assert body["code"] == "unauthorized"
            assert "API" in body["error"]
            assert "channel:1" not in json.dumps(body)
        assert [frame["type"] for frame in await alice.settled()] == ["user_joined"]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_without_api_key_the_api_is_off(gateway_client: GatewayClient, method: str, path: str):
    """If API_KEY is not set, every request gets 403, also with an empty key, and the error names the setting."""
    client = await gateway_client(api_key=None)
    for headers in ({}, bearer(""), bearer("None"), bearer(KEY)):
        response = await client.request(method, path, headers=headers)
        body = await response.json()
        assert (response.status, body["code"]) == (403, "api_off")
        assert "set API_KEY" in body["error"]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_an_unavailable_broker_is_503(gateway_client: GatewayClient, method: str, path: str):
    """The response has Retry-After, a sentence that names the broker, and the cause in ``detail``."""
    client = await gateway_client()
    await client.app[GATEWAY].broker.close()
    response = await client.request(method, path, json=task_created(), headers=WITH_KEY)
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    body = await response.json()
    assert body["code"] == "unavailable"
    assert body["error"].endswith(" The broker cannot carry out the request.")
    assert "embedded broker is not running" in body["detail"]


async def test_unknown_paths_and_methods_are_answered_in_json(gateway_client: GatewayClient):
    """An unknown path gets 404, a wrong method 405 with the allowed methods. Neither needs a key."""
    client = await gateway_client()
    for method, path in [
        ("GET", "/api/v1/"),
        ("PUT", "/api/v1/rooms/x"),
        ("GET", "/api/v1/users/1/nothing"),
    ]:
        response = await client.request(method, path)
        assert (response.status, (await response.json())["code"]) == (404, "no_such_path"), path
    for method, path, allowed in [("PUT", EVENTS, "POST"), ("POST", "/api/v1/rooms", "GET, HEAD")]:
        response = await client.request(method, path)
        assert (response.status, response.headers["Allow"]) == (405, allowed)
        assert (await response.json())["code"] == "no_such_method"


async def test_responses_are_not_cached(gateway_client: GatewayClient):
    """Results and errors have Cache-Control: no-store."""
    client = await gateway_client()
    for path, headers in [("/api/v1/rooms", WITH_KEY), ("/api/v1/rooms", {}), ("/api/v1/nowhere", WITH_KEY)]:
        response = await client.get(path, headers=headers)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"].startswith("application/json")
