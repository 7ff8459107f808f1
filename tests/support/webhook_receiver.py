"""A receiver of webhooks: an HTTP server that verifies signatures with the library ``standardwebhooks``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest_asyncio
from aiohttp import web
from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class WebhookReceiver:
    """Records the events that it accepts. Tests may replace ``answer``, and stop and start the server.

    ``answer`` receives the events of a request, and returns a status, a response, or None for 204.
    """

    def __init__(self, secret: str = SECRET) -> None:
        self.verifier = Webhook(secret)
        self.answer: Callable[[list[dict[str, Any]]], int | web.Response | None] = lambda events: None
        #: The accepted events in order, and the ids and events of all requests.
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.headers: list[dict[str, str]] = []
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/webhooks"

    async def start(self) -> None:
        """Listen, on the same port as before if the server was stopped."""
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.text()
        self.verifier.verify(body, dict(request.headers))
        events = orjson.loads(body)
        self.headers.append(dict(request.headers))
        self.requests.append((request.headers["webhook-id"], events))
        answer = self.answer(events)
        status = answer.status if isinstance(answer, web.Response) else answer or 204
        if status < 300:
            self.events += events
        self._changed.set()
        return answer if isinstance(answer, web.Response) else web.Response(status=status)

    def told(self) -> dict[Any, str]:
        """Return the last type of event about each user and room."""
        return {
            event["data"].get("user_id", event["data"].get("room")): event["type"]
            for event in self.events
            if event["type"] != "event.published"
        }

    def published(self) -> list[tuple[str, str]]:
        """Return the room and the id of each published event, in order."""
        return [(e["data"]["room"], e["data"]["id"]) for e in self.events if e["type"] == "event.published"]

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until ``condition`` holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest_asyncio.fixture
async def webhook_receiver() -> AsyncIterator[WebhookReceiver]:
    """Run a receiver."""
    receiver = WebhookReceiver()
    await receiver.start()
    yield receiver
    await receiver.stop()
