"""Start servers for tests that hold on every broker. See the fixtures ``start`` of the classes that use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis_servers import RedisServer
from serving import Serve

from roomcast.broker.base import KEY_TTL
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

#: ``await start(history_size=…, history_bytes=…, **settings)`` starts a server. The servers of one test share a broker.
Start = Callable[..., Awaitable[Server]]


def on_memory(serve: Serve) -> Start:
    """Return a function that starts one server with the embedded broker, and returns the same one if called again."""
    started: list[Server] = []

    async def start(**settings: Any) -> Server:
        if not started:
            started.append(await serve(**settings))
        return started[0]

    return start


def on_redis(serve: Serve, redis: RedisServer, prefix: str) -> Start:
    """Return a function that starts a node on Redis."""

    async def start(
        *,
        history_size: int = 500,
        history_bytes: int = 2**21,
        idempotency_ttl: float = KEY_TTL,
        **settings: Any,
    ) -> Server:
        options = RedisOptions(
            prefix=prefix, history_size=history_size, history_bytes=history_bytes, key_ttl=idempotency_ttl
        )
        return await serve(broker=RedisBroker(parse(redis.url), options), **settings)

    return start
