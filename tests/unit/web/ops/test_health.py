"""Health: what a restarter and a load balancer are told, in good times, while stopping, and without the broker."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from redis_servers import FreshRedis
from serving import KEY, PATIENCE, Serve, answer, call, connect, url

from roomcast.broker.memory import MemoryBroker
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.urls import parse
from roomcast.web.ops import health

READY = {"broker": "ok", "connections": "ok", "plugins": "ok"}


class HangingBroker(MemoryBroker):
    """Takes a ping and never answers, as a stopped process does."""

    async def ping(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("settings", [{}, {"api_key": None}])
async def test_a_healthy_server_says_so_to_anyone(serve: Serve, settings: dict):
    """200 without a key, whether or not there is one; and no cache keeps it."""
    server = await serve(**settings)
    for method in ("GET", "HEAD"):
        for path in ("/health/live", "/health/ready"):
            async with answer(server, method, path, key=None) as response:
                assert response.status == 200
                assert response.headers["Cache-Control"] == "no-store"
    assert await call(server, "GET", "/health/live", key=None) == (200, {"live": True})
    assert await call(server, "GET", "/health/ready", key=None) == (200, {"ready": True, "parts": READY})


async def test_without_the_broker_it_lives_but_is_not_ready(serve: Serve):
    """503 names the part; a restart would not help, so it stays alive."""
    server = await serve()
    await server.gateway.broker.close()
    status, body = await call(server, "GET", "/health/ready", key=None)
    assert (status, body["ready"]) == (503, False)
    assert "embedded broker is not running" in body["parts"].pop("broker")
    assert body["parts"] == {"connections": "ok", "plugins": "ok"}
    assert await call(server, "GET", "/health/live", key=None) == (200, {"live": True})


async def test_a_broker_that_hangs_is_not_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """503 after a deadline of its own: a hung broker raises nothing by itself."""
    monkeypatch.setattr(health, "PING_TIMEOUT", 0.05)
    server = await serve(broker=HangingBroker())
    status, body = await call(server, "GET", "/health/ready", key=None)
    assert (status, body["parts"]["broker"]) == (503, "The broker gave no answer in 0.05 s.")
    assert await call(server, "GET", "/health/live", key=None) == (200, {"live": True})


async def test_the_redis_that_is_down_is_named(serve: Serve, fresh_redis: FreshRedis):
    """Ready is who can hear through Redis what it says there; 503 has the address, and no password."""
    redis = await fresh_redis(password="pa55")
    server = await serve(broker=RedisBroker(parse(redis.url)))
    assert await call(server, "GET", "/health/ready", key=None) == (200, {"ready": True, "parts": READY})
    redis.kill()
    status, body = await call(server, "GET", "/health/ready", key=None)
    assert (status, body["ready"]) == (503, False)
    assert f"Redis at {redis.address}" in body["parts"]["broker"]
    assert "pa55" not in body["parts"]["broker"]
    assert await call(server, "GET", "/health/live", key=None) == (200, {"live": True})
    await redis.start()
    async with asyncio.timeout(PATIENCE):
        while (await call(server, "GET", "/health/ready", key=None))[0] != 200:
            await asyncio.sleep(0.02)


async def test_while_it_drains_it_is_alive_and_not_ready(serve: Serve):
    """Whoever still has a connection to ask by is told not to send clients here."""
    server = await serve(drain_seconds=2)
    async with aiohttp.ClientSession() as http, connect(server) as alice, connect(server, 2, "bob") as bob:
        async with http.get(url(server, "/health/ready")) as response:
            assert response.status == 200
        stopping = asyncio.create_task(server.gateway.drain())
        assert await alice.closed() == (1012, "Service Restart")
        async with http.get(url(server, "/health/ready")) as response:
            assert response.status == 503
            body = await response.json()
            assert body == {"ready": False, "parts": {**READY, "connections": "draining: the server is about to stop"}}
        async with http.get(url(server, "/health/live")) as response:
            assert response.status == 200
        assert not stopping.done()
        assert await bob.closed() == (1012, "Service Restart")
        await stopping


async def test_the_parts_tell_no_secrets(serve: Serve):
    """Neither answer has a key, a user's name or a room."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("channel:1")
        for path in ("/health/live", "/health/ready"):
            async with answer(server, "GET", path, key=None) as response:
                text = await response.text()
                assert not [word for word in (KEY, "alice", "channel") if word in text]
