"""Nodes for tests of leases and presence: several in one process, each with its own connections to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from roomcast.broker.base import Member
from roomcast.broker.redis.connection import RedisConnection
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.keys import Keys
from roomcast.broker.redis.leases import Leases
from roomcast.broker.redis.presence import Presence
from roomcast.broker.redis.reconnect import OnLost
from roomcast.broker.redis.router import Router
from roomcast.broker.redis.topology import Address, create_topology
from roomcast.broker.redis.urls import parse
from roomcast.errors import Unavailable


class Node:
    """The leases and presence of a node, and the members that were reported as lost or returned."""

    def __init__(self, name: str, router: Router, prefix: str, lease: float) -> None:
        self.name = name
        self.router = router
        self.lost: list[tuple[str, Member, int]] = []
        self.returned: list[tuple[str, Member, int]] = []
        self.leases = Leases(router, Keys(prefix), name, lease)
        self.presence = Presence(
            router,
            Keys(prefix),
            name,
            lease,
            on_member_lost=self._recorder(self.lost),
            on_member_returned=self._recorder(self.returned),
        )

    @staticmethod
    def _recorder(reports: list[tuple[str, Member, int]]) -> Callable[[str, Member, int], None]:
        return lambda room, member, users: reports.append((room, member, users))

    async def renew(self) -> None:
        """Renew everything, as a node does every third of a lease."""
        await self.leases.renew()
        await self.presence.renew()

    async def restore(self) -> None:
        """Write everything again, as a node does when the server returns."""
        await self.leases.restore()
        await self.presence.restore()

    async def reaches_redis(self) -> bool:
        """Return True if the server answers."""
        try:
            await self.router.call("", "PING")
        except Unavailable:
            return False
        return True

    async def die(self) -> None:
        """Close the connections without releasing anything, as if the process had died."""
        await self.router.close()


@asynccontextmanager
async def router_to(url: str) -> AsyncIterator[Router]:
    """Start a router to one server."""
    target = parse(url)

    async def open_(
        address: Address | None, on_push: Callable[[list[object]], None], on_lost: OnLost
    ) -> RedisConnection:
        assert address is not None
        return await open_connection(address, (None, None), 0, None, on_push, on_lost, (), 3.0)

    router = Router(create_topology(target, 3.0), open_, 2**20)
    try:
        await router.start(5)
        yield router
    finally:
        await router.close()


@asynccontextmanager
async def nodes(url: str, prefix: str, count: int, lease: float = 30.0, stem: str = "n") -> AsyncIterator[list[Node]]:
    """Start ``count`` nodes, named ``stem`` and a number, on the server at ``url``. They renew only when told to."""
    async with AsyncExitStack() as stack:
        yield [
            Node(f"{stem}{number}", await stack.enter_async_context(router_to(url)), prefix, lease)
            for number in range(count)
        ]


async def until(condition: Callable[[], Awaitable[bool]], pause: float = 0.02) -> None:
    """Poll ``condition`` until it is True; fail after 15 s."""
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(pause)
