"""``/api/v1/users``: disconnecting users, and the ids of users in paths."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import WITH_KEY, GatewayClient, connect
from yarl import URL


async def delete(client: TestClient, path: str) -> tuple[int, Any]:
    """Return the status and the body of a DELETE."""
    response = await client.delete(path, headers=WITH_KEY)
    return response.status, await response.json()


async def test_a_disconnect_closes_all_connections_of_the_user(gateway_client: GatewayClient):
    """The connections end with 4410, other users stay connected, and the user may connect again."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client) as tab, connect(client, 2, "bob") as bob:
        path = "/api/v1/users/1/connections"
        assert await delete(client, path) == (200, {"user_id": 1, "connections": 2})
        assert await alice.closed() == (4410, "Disconnected")
        assert await tab.closed() == (4410, "Disconnected")
        assert await bob.settled() == []
        async with connect(client) as again:
            assert again.welcome["type"] == "connected"


async def test_a_disconnect_of_an_absent_user_is_not_an_error(gateway_client: GatewayClient):
    """The response has 0 connections."""
    client = await gateway_client()
    assert await delete(client, "/api/v1/users/1/connections") == (200, {"user_id": 1, "connections": 0})


@pytest.mark.parametrize(("text", "user_id"), [("7", 7), ("007", "007"), ("bob-2", "bob-2"), ("9" * 17, "9" * 17)])
async def test_an_id_in_a_path_is_the_one_of_tokens(gateway_client: GatewayClient, text: str, user_id: int | str):
    """A decimal id in a path is a number, as in a token. Any other id is a string."""
    client = await gateway_client()
    async with connect(client, text, "someone") as someone:
        assert someone.welcome["data"]["user_id"] == user_id
        await someone.join("channel:1")
        path = f"/api/v1/rooms/channel:1/members/{text}"
        assert await delete(client, path) == (200, {"room": "channel:1", "user_id": user_id, "connections": 1})
        assert (await delete(client, f"/api/v1/users/{text}/connections"))[1]["connections"] == 1
        assert await someone.closed() == (4410, "Disconnected")


@pytest.mark.parametrize(
    "segment", ["%2E", "a%00", "a%0Ab", "%C2%85", "x" * 256, "%FF", "%ED%A0%80", "%C0%AF", "%zz", "100%", "%"]
)
async def test_an_invalid_user_id_is_422(gateway_client: GatewayClient, segment: str):
    """Every endpoint with a user id in its path refuses an invalid one."""
    client = await gateway_client()
    of_user = [f"/api/v1/users/{segment}/{rest}" for rest in ("connections", "tokens", "tokens/t")]
    for path in (*of_user, f"/api/v1/rooms/channel:1/members/{segment}"):
        response = await client.delete(URL(path, encoded=True), headers=WITH_KEY)
        body = await response.json()
        malformed = segment.startswith(("%FF", "%ED", "%C0", "%z")) or segment.endswith("%")
        code = "bad_room" if malformed and "/rooms/" in path else "bad_user"
        assert (response.status, body["code"]) == (422, code)
        assert body["error"].endswith(".")
        assert body["error"].isprintable()
