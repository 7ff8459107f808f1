"""The backends of a soak: publishers over HTTP that retry with an idempotency key until they get a reply."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
from soak_nodes import CALL_ERRORS, Node
from soak_world import PATIENCE, PAUSE, RETRYABLE, PendingMessage, World


class Backend:
    """A publisher over HTTP. It sends single events and lists, each request with an ``Idempotency-Key``."""

    def __init__(self, world: World, name: str, rooms: Sequence[str]) -> None:
        self._world = world
        self._name = name
        self._rooms = rooms
        self._random = world.random(name)
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Publish until the world's ``publishing`` is False."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * PATIENCE)) as session:
            while self._world.publishing:
                count = self._random.choice((1, 1, 1, 4))
                await self._publish(session, [self._new_message() for _ in range(count)])
                await asyncio.sleep(self._random.uniform(0.03, 0.15))

    def _new_message(self) -> PendingMessage:
        self._world.ledger.counts["published"] += 1
        return PendingMessage(self._random.choice(self._rooms), self._name, next(self._numbers))

    async def _publish(self, session: aiohttp.ClientSession, messages: list[PendingMessage]) -> None:
        """Send one request to one random node after the other until it is answered with 200."""
        counts = self._world.ledger.counts
        events = [_event(message) for message in messages]
        body = orjson.dumps(events[0] if len(events) == 1 else events)
        headers = {"Idempotency-Key": messages[0].key}
        for number in itertools.count():
            if messages[0].is_overdue:
                counts["given up"] += len(messages)
                return
            counts["retried"] += number > 0
            node = self._random.choice(self._world.nodes)
            try:
                status, reply = await node.call(session, "POST", "/api/v1/events", data=body, headers=headers)
            except CALL_ERRORS:
                await asyncio.sleep(PAUSE)
                continue
            if status == 200:
                self._acknowledge(messages, reply)
                return
            self._on_refused(node, status, reply)
            await asyncio.sleep(PAUSE)

    def _acknowledge(self, messages: list[PendingMessage], reply: dict[str, Any]) -> None:
        ids = reply["ids"] if "ids" in reply else [reply["id"]]
        for message, id in zip(messages, ids, strict=True):
            self._world.ledger.acknowledged(message.room, id, message.text, self._name)

    def _on_refused(self, node: Node, status: int, reply: dict[str, Any]) -> None:
        ledger = self._world.ledger
        ledger.counts[f"refused: {reply.get('code')}"] += 1
        if reply.get("code") not in RETRYABLE:
            ledger.violate("wrong answers", self._name, f"{node.name} answered {status}: {reply}")


def _event(message: PendingMessage) -> dict[str, Any]:
    if message.room.startswith("user:"):
        data = {"title": "soak", "message": message.text}
        return {"type": "notification.new", "room": message.room, "data": data}
    data = {"content": message.text, "username": "backend", "user_id": 0}
    return {"type": "message", "room": message.room, "data": data}
