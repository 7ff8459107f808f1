"""A broker that fails when a test wants it."""

from __future__ import annotations

import asyncio
from typing import Any

from roomcast.broker.base import History, PresenceChange
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable


class FaultyBroker(MemoryBroker):
    """A broker whose ``unavailable`` methods raise, and whose ``hanging`` methods never return."""

    unavailable: frozenset[str] = frozenset()
    hanging: frozenset[str] = frozenset()

    async def _hang(self, method: str) -> None:
        if method in self.hanging:
            await asyncio.Event().wait()

    def _check(self, method: str) -> None:
        if method in self.unavailable:
            raise Unavailable("The broker cannot be reached.")

    async def history(self, *args: Any, **options: Any) -> History:
        self._check("history")
        return await super().history(*args, **options)

    async def enter(self, room: str, user_id: int | str, username: str, connection: int) -> PresenceChange:
        change = await super().enter(room, user_id, username, connection)  # recorded even if this fails, as on Redis
        self._check("enter")
        await self._hang("enter")
        return change

    async def leave(self, room: str, user_id: int | str, connection: int, *, is_lost: bool = False) -> PresenceChange:
        change = await super().leave(room, user_id, connection, is_lost=is_lost)
        self._check("leave")
        await self._hang("leave")
        return change

    async def publish(self, room: str, payload: bytes, *args: Any) -> str:
        self._check("publish")
        return await super().publish(room, payload, *args)

    async def subscribe(self, rooms: Any) -> None:
        self._check("subscribe")
        await self._hang("subscribe")
        await super().subscribe(rooms)
