"""An HTTP server that decides about joins, like the one that ``ROOM_ACCESS`` names."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from aiohttp import web


class AccessServer:
    """An HTTP server on loopback that allows user 1. Tests may replace ``answer``, and stop and start the server.

    ``bodies`` and ``headers`` are those of each request, ``most_at_once`` is the greatest number of requests that were
    answered at the same time.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.raw_bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: Counter[str] = Counter()
        self.connections: set[object] = set()
        self.most_at_once = 0
        self._at_once = 0
        self._stopped = asyncio.Event()
        self._port = 0
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/may-join"

    async def start(self) -> None:
        """Listen on the same port as before, if the server was stopped."""
        self._stopped.clear()
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and all connections: further connections are refused."""
        self._stopped.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.paths[request.path_qs] += 1
        self.connections.add(request.transport)
        self.headers.append(dict(request.headers))
        self.raw_bodies.append(await request.read())
        self.bodies.append(await request.json())
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self.answer(request)
        finally:
            self._at_once -= 1

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to a request."""
        allowed = (await request.json())["user"]["user_id"] == 1
        return web.Response(status=200 if allowed else 403, text="ignored")

    def never(self) -> None:
        """Respond to no request from now on."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            await self._stopped.wait()
            return web.Response(status=503)

        self.answer = answer  # type: ignore[method-assign]

    def reset(self) -> None:
        """Reset the connection of each request from now on."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=503)

        self.answer = answer  # type: ignore[method-assign]

    def always(self, status: int) -> None:
        """Respond with ``status`` from now on."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": "/other"} if 300 <= status < 400 else None)

        self.answer = answer  # type: ignore[method-assign]


@pytest_asyncio.fixture
async def access_server() -> AsyncIterator[AccessServer]:
    """Run an access server."""
    server = AccessServer()
    await server.start()
    yield server
    await server.stop()
