"""What clients receive while a part of the server fails, and a search of it for facts that only operators may know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import aiohttp
import aiohttp.web
import orjson
import websockets
from serving import KEY, PATIENCE, Listening, User, bearer, token_for, url

from roomcast import Plugin, Refused, RoomcastError, Service

#: Texts that come from servers, libraries and the interpreter: replies of Redis, hashes of scripts, paths, exceptions.
_TRACES = (
    rb"(?i)redis",
    rb"\b[0-9a-f]{40}\b",
    rb"\b(MISCONF|OOM|READONLY|MASTERDOWN|NOREPLICAS|BUSY|LOADING|NOPERM|NOSCRIPT|NOAUTH|EVALSHA|ACL|ERR)\b",
    rb"127\.0\.0\.1|localhost|::1",
    rb"(/[a-z_-]+){2,}\.[a-z]+|\.py\b|\.lua\b|/tmp\b",
    rb"Errno|Traceback|[A-Za-z]+(Error|Exception)\b|refused: ",
)

#: A plugin whose author sends the text of exceptions to clients.
careless = Plugin("careless")


@careless.route("GET", "/publish", auth="public")
async def publish(service: Service, request: aiohttp.web.Request) -> aiohttp.web.Response:
    """Publish an event; answer with the text of the exception if that fails."""
    try:
        await service.publish("task.created", "task:1", {"task_id": 1, "title": "A"})
    except Refused:
        raise
    except RoomcastError as error:
        return aiohttp.web.Response(text=str(error), status=503)
    return aiohttp.web.Response(text="published")


@careless.route("GET", "/members", auth="public")
async def members(service: Service, request: aiohttp.web.Request) -> aiohttp.web.Response:
    """Count the members of a room; let an exception pass."""
    return aiohttp.web.json_response(len(await service.members("task:1")))


def traces(received: Iterable[bytes], *facts: str) -> list[str]:
    """Return each text in ``received`` that looks as if it came from a server or library, or is one of ``facts``."""
    patterns = [*_TRACES, *(rb"(?<![0-9.])%b(?![0-9])" % re.escape(fact).encode() for fact in facts)]
    return [
        f"{found[0].decode()!r} in {text.decode(errors='replace')[:300]}"
        for text in received
        for pattern in patterns
        if (found := re.search(pattern, text))
    ]


class Visitor:
    """A client without the API key that tries everything. ``received`` are all bodies, headers, frames and reasons."""

    def __init__(self, server: Listening) -> None:
        self.received: list[bytes] = []
        self._server = server

    async def get(self, method: str, path: str, **headers: str) -> int:
        """Send a request and record the response; return its status."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url(self._server, path), headers=headers) as response,
        ):
            self.received += [*(value for header in response.raw_headers for value in header), await response.read()]
            return response.status

    async def request_everything(self) -> list[int]:
        """Send the requests that need no API key, and some with a wrong one; return the statuses."""
        return [
            await self.get("GET", "/health/ready"),
            await self.get("GET", "/health/ready", **bearer("wrong")),
            await self.get("GET", "/health/live"),
            await self.get("GET", "/api/v1/rooms", **bearer("wrong")),
            await self.get("POST", "/api/v1/tickets", **bearer(token_for(1))),
            await self.get("GET", "/plugins/careless/publish"),
            await self.get("GET", "/plugins/careless/members"),
            await self.get("GET", "/"),
        ]

    async def connect(self) -> None:
        """Try to connect, also with a ticket; record the frames and the reason of the close."""
        for query in (f"token={token_for(1)}", "ticket=x"):
            address = url(self._server, f"/api/v1/ws/connect?{query}", "ws")
            async with websockets.connect(address, proxy=None, ping_interval=None) as socket:
                try:
                    self.received.append(str(await socket.recv()).encode())
                except websockets.ConnectionClosed as end:
                    self.received.append(str(end).encode())

    async def command(self, user: User, type: str, room: str | None = None, data: Any = None, **more: Any) -> str:
        """Send a command; record all frames until its reply, and return the type of the reply or the error's code."""
        await user.send(type, room, data, id="request", **more)
        while True:
            frame = await user.recv()
            self.received.append(orjson.dumps(frame))
            if frame.get("id") == "request":
                return str(frame["data"].get("code", frame["type"]))


async def details(server: Listening) -> list[str]:
    """Return what the callers with the API key learn about the cause of failures."""
    found = []
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout, headers=bearer(KEY)) as session:
        event = {"type": "task.created", "room": "task:1", "data": {"task_id": 1, "title": "A"}}
        for method, path in (
            ("POST", "/api/v1/events"),
            ("GET", "/api/v1/rooms"),
            ("GET", "/api/v1/rooms/task:1/members"),
            ("DELETE", "/api/v1/users/9/connections"),
            ("DELETE", "/api/v1/users/9/tokens"),
        ):
            async with session.request(method, url(server, path), json=event if method == "POST" else None) as response:
                if response.status == 503:
                    body = await response.json()
                    assert not traces([body["error"].encode()])
                    found.append(body["detail"])
        async with session.get(url(server, "/health/ready")) as response:
            found.append((await response.json())["parts"]["broker"])
    return found
