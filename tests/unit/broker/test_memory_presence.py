"""Random joins, leaves, losses and statuses in the embedded broker match the model."""

from __future__ import annotations

import asyncio

from broker_contract import ManualClock
from hypothesis import given, settings
from presence_model import GRACE, LISTS, NODES, Operation, Told, World, examples

from roomcast.broker.base import STATUS_INTERVAL, Announcements, UserId
from roomcast.broker.memory_presence import MemoryPresence

ROOM = "channel:1"


class _MemoryWorld(World):
    """Three groups of connections. All connections of a group are lost if it stops or crashes."""

    def __init__(self) -> None:
        super().__init__([f"n{number}" for number in range(NODES)])
        self._clock = ManualClock()
        self._told = Told()
        self._updated: dict[UserId, float] = {}
        reports = (self._on_presence, self._on_status, lambda *_: None)
        self.presence = MemoryPresence(self._clock, 0.0, Announcements(GRACE), *reports)

    def _on_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        self._updated.pop(user_id, None)
        self._told.on_presence(user_id, has_joined)

    def _on_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        assert self._clock.now >= self._updated.get(user_id, 0.0) + STATUS_INTERVAL
        self._updated[user_id] = self._clock.now
        self._told.on_status(user_id, status)

    async def enter(self, number: int, user_id: int, connection: int) -> None:
        self.presence.enter(ROOM, user_id, "name", number * 100 + connection)

    async def leave(self, number: int, user_id: int, connection: int, *, is_lost: bool) -> None:
        self.presence.leave(ROOM, user_id, number * 100 + connection, is_lost=is_lost)

    async def set_status(self, number: int, user_id: int, status: str) -> None:
        if any(name == self.names[number] for name, _ in self.users[user_id].connections):
            self.presence.set_status(ROOM, user_id, status)

    async def pass_time(self, seconds: float) -> None:
        for part in (0.5, 0.5, seconds - 1.0):
            self._clock.now += part
            await self.presence.announce_due()

    async def end(self, what: str, number: int, steps: int) -> None:
        if what == "restore":
            return
        connections = [
            (user_id, connection)
            for user_id, user in self.users.items()
            for name, connection in user.connections
            if name == self.names[number]
        ]
        for user_id, connection in connections:
            self.presence.leave(ROOM, user_id, number * 100 + connection, is_lost=True)
        self.lose({self.names[number]})
        if what == "suspend":
            for _ in range(steps):
                await self.step()
            for user_id, connection in connections:
                await self.enter(number, user_id, connection)
                self.users[user_id].enter((self.names[number], connection), self.now)

    async def told(self) -> Told:
        return self._told

    async def listed(self) -> dict[UserId, str]:
        page = self.presence.list_members(ROOM, None, 100, 100_000, None)
        assert page.total == len(page.members)
        return {member.user_id: member.status for member in page.members}

    async def members(self) -> set[UserId]:
        return {member.user_id for member in self.presence.members(ROOM)}

    async def finish(self) -> None:
        """Let all users leave; nothing may be left."""
        await self.settle()
        for number in range(NODES):
            await self.end("stop", number, 0)
        for _ in range(3):
            await self.step()
        await self.check(is_quiet=True)
        presence = self.presence
        assert not any((presence.rooms, presence._open, presence._held, presence._statuses, presence._updates))


async def _play(operations: list[Operation]) -> None:
    world = _MemoryWorld()
    for operation in operations:
        await world.perform(*operation)
    await world.finish()


@settings(max_examples=examples(60), deadline=None)
@given(operations=LISTS)
def test_random_operations(operations: list[Operation]) -> None:
    """After each operation, exactly what the model expects was announced and is listed."""
    asyncio.run(_play(operations))
