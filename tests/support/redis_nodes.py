"""For tests of what nodes keep on Redis: several of them in one process, each with connections of its own."""

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
    """A node's leases and presence, and whom it was told of as gone or back: room, member, users then."""

    def __init__(self, name: str, router: Router, prefix: str, lease: float) -> None:
        self.name = name
        self.router = router
        self.gone: list[tuple[str, Member, int]] = []
        self.back: list[tuple[str, Member, int]] = []
        self.leases = Leases(router, Keys(prefix), name, lease)
        self.presence = Presence(
            router,
            Keys(prefix),
            name,
            lease,
            on_member_lost=self._told(self.gone),
            on_member_returned=self._told(self.back),
        )

    @staticmethod
    def _told(of: list[tuple[str, Member, int]]) -> Callable[[str, Member, int], None]:
        return lambda room, member, users: of.append((room, member, users))

    async def renew(self) -> None:
        """What each third of a lease brings."""
        await self.leases.renew()
        await self.presence.renew()

    async def restore(self) -> None:
        """What the return of the server brings."""
        await self.leases.restore()
        await self.presence.restore()

    async def reaches_redis(self) -> bool:
        """Whether the server answers."""
        try:
            await self.router.call("", "PING")
        except Unavailable:
            return False
        return True

    async def die(self) -> None:
        """Fall silent at once, giving nothing back."""
        await self.router.close()


@asynccontextmanager
async def router_to(url: str) -> AsyncIterator[Router]:
    """A started router to one server."""
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
    """So many nodes, named ``stem`` and a number, that share the server at ``url``; they do nothing by themselves."""
    async with AsyncExitStack() as stack:
        yield [
            Node(f"{stem}{number}", await stack.enter_async_context(router_to(url)), prefix, lease)
            for number in range(count)
        ]


async def until(condition: Callable[[], Awaitable[bool]], pause: float = 0.02) -> None:
    """Ask ``condition`` again and again until it holds; fail after 15 s."""
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(pause)
