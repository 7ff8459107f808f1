"""Errors while Redis fails: clients learn nothing about it. The log and callers with the API key get the cause."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from disclosures import Visitor, careless, details, traces
from redis_refusals import REFUSALS, refusing
from redis_servers import FreshRedis, RedisServer
from serving import connect, running, token_for

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse


@asynccontextmanager
async def killed(server: RedisServer) -> AsyncIterator[None]:
    """Kill the server."""
    server.kill()
    yield


@asynccontextmanager
async def paused(server: RedisServer) -> AsyncIterator[None]:
    """Stop the process of the server, so that it accepts connections and never replies."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def failing(server: RedisServer, name: str) -> AbstractAsyncContextManager[None]:
    """Let ``server`` fail in the way called ``name``."""
    faults = {"killed": killed, "paused": paused}
    return faults[name](server) if name in faults else refusing(server, name)


@pytest.mark.parametrize("name", [*REFUSALS, "killed", "paused"])
async def test_clients_learn_nothing_about_redis(
    fresh_redis: FreshRedis, redis_prefix: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No byte that a client receives has an address, a path, a version, a hash or a reply of Redis.

    The responses to the API key and the log have the address.
    """
    redis = await fresh_redis(password="pa55w0rd", appendonly="yes" if name == "AOF" else "no")
    version = (await redis.info("server"))["redis_version"]
    broker = RedisBroker(parse(redis.url), RedisOptions(prefix=redis_prefix, wait=0.3, timeout=1.0))
    async with running(broker=broker, plugins=[careless]) as server, connect(server, 1) as alice:
        await alice.join("channel:1")
        await alice.settled()
        visitor = Visitor(server)
        with caplog.at_level(logging.INFO, logger="roomcast"):
            async with failing(redis, name):
                codes = [
                    await visitor.command(alice, "send_message", "channel:1", {"content": "x"}),
                    await visitor.command(alice, "send_message", "channel:1", {"content": "x"}, key="k"),
                    await visitor.command(alice, "edit_message", "channel:1", {"message_id": "1-1", "content": "x"}),
                    await visitor.command(alice, "join_room", "channel:2"),
                    await visitor.command(alice, "join_room", "channel:1", {"since": "1-1"}),
                    await visitor.command(alice, "refresh_token", data={"token": token_for(1)}),
                    await visitor.command(alice, "leave_room", "channel:1"),
                ]
                statuses = await visitor.request_everything()
                await visitor.connect()
                told = await details(server)
    assert not traces(visitor.received, redis.address, str(redis.port), version, str(redis.directory), "pa55w0rd")
    assert "internal" not in codes and 500 not in statuses
    assert "unavailable" in codes or name == "NOPERM ping"
    assert any(redis.address in detail for detail in told), told
    assert redis.address in caplog.text and "pa55w0rd" not in caplog.text
