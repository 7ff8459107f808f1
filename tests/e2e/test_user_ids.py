"""Users with ids of any form on a real server: every place that names a user finds exactly this user."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from itertools import count
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given, settings
from serving import PATH, WITH_KEY, bearer, connect, refused, running, token_for, url
from user_ids import USER_IDS, user_ids
from yarl import URL

from roomcast.web.server import Server

ROOM = "channel:1"
#: The ``iat`` of the next token. Each revocation applies to the tokens of one example only.
_ISSUED = count(1_700_000_000)


class Backend:
    """A backend that sends its paths unchanged, as most HTTP clients do, unlike aiohttp's."""

    def __init__(self, server: Server, http: aiohttp.ClientSession) -> None:
        self._server = server
        self._http = http

    async def call(self, method: str, path: str, json: Any = None) -> dict[str, Any]:
        """Send a request, which must succeed; return the body of the response."""
        address = URL(url(self._server, f"/api/v1/{path}"), encoded=True)
        async with self._http.request(method, address, json=json, headers=WITH_KEY) as response:
            body: dict[str, Any] = await response.json()
            assert response.status == 200, body
            return body

    async def notify(self, room: str, title: str) -> str:
        """Publish a notification in ``room``; return its id."""
        data = {"title": title, "message": "Hello"}
        return (await self.call("POST", "events", {"type": "notification.new", "room": room, "data": data}))["id"]


async def use_everything(server: Server, user_id: str) -> None:
    """Use every feature that names the user ``user_id``, while another user is connected."""
    expected = int(user_id) if re.fullmatch("0|[1-9][0-9]{0,14}", user_id) else user_id
    segment, issued = quote(user_id, safe=""), next(_ISSUED)
    token = token_for(user_id, None, iat=issued)
    async with (
        aiohttp.ClientSession() as http,
        connect(server, token=token) as ann,
        connect(server, "somebody else", "other") as other,
    ):
        backend = Backend(server, http)
        assert ann.welcome["data"]["user_id"] == expected
        assert ann.welcome["data"]["username"] == user_id
        await other.join(ROOM)
        await ann.join(ROOM)
        joined = await other.recv_type("user_joined", sender=user_id)
        assert joined["data"]["user_id"] == expected
        await ann.send("send_message", ROOM, {"content": "Hello"}, id=1, key=f"k/{issued}")
        assert (await other.recv_type("message"))["data"]["user_id"] == expected

        for number, room in enumerate((f"user:{segment}", "user:" + quote(user_id, safe="!'()*~@:/|"))):
            event_id = await backend.notify(room, f"n{number}")
            event = await ann.recv_type("notification.new")
            assert (event["id"], event["data"]["title"], "room" in event) == (event_id, f"n{number}", False)
        history = await backend.call("GET", f"rooms/{quote(f'user:{segment}', safe='')}/history")
        assert history["events"][-1]["id"] == event_id
        async with connect(server, path=f"{PATH}?token={token}&since={history['events'][-2]['id']}") as returned:
            assert (await returned.recv())["id"] == event_id

        members = (await backend.call("GET", f"rooms/{ROOM}/members"))["members"]
        assert {"user_id": expected, "username": user_id, "connections": 1} in members
        kicked = await backend.call("DELETE", f"rooms/{ROOM}/members/{segment}")
        assert kicked == {"room": ROOM, "user_id": expected, "connections": 1}
        await ann.recv_type("left_room", room=ROOM)
        assert (await other.recv_type("user_left"))["data"]["user_id"] == expected

        async with http.post(url(server, "/api/v1/tickets"), headers=bearer(token)) as response:
            ticket = (await response.json())["ticket"]
        async with connect(server, path=f"{PATH}?ticket={ticket}") as tab:
            assert (await backend.call("DELETE", f"users/{segment}/connections"))["connections"] == 2
            assert await tab.closed() == await ann.closed() == (4410, "Disconnected")
        async with connect(server, token=token) as again:
            revoked = await backend.call("DELETE", f"users/{segment}/tokens?before={issued + 1}")
            assert revoked["user_id"] == expected
            assert await again.closed() == (4401, "Authentication Failed")
        assert await refused(server, f"{PATH}?token={token}") == (4401, "Authentication Failed")
        assert [frame["type"] for frame in await other.settled()] == []
        assert "notification.new" not in [frame["type"] for frame in other.frames]


@pytest.mark.parametrize("user_id", USER_IDS)
async def test_ids_of_identity_providers_work_everywhere(user_id: str) -> None:
    """Welcome, notifications, resume, lists, kick, disconnect, tickets and revocation find the user."""
    async with running() as server:
        await use_everything(server, user_id)


def test_any_id_works_everywhere() -> None:
    """The same for generated ids. One server has the traces of all examples, so users that are confused would show."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(running()))

        @settings(max_examples=100, deadline=None)
        @given(user_ids)
        def check(user_id: str) -> None:
            runner.run(use_everything(server, user_id))

        try:
            check()
        finally:
            runner.run(stack.aclose())
