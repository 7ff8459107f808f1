"""Health checks: a healthy node, a draining node, and a broker that is down or hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from redis_servers import FreshRedis
from serving import KEY, PATIENCE, WITH_KEY, GatewayClient, bearer, connect

from roomcast.broker.memory import MemoryBroker
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.urls import parse
from roomcast.web.app_state import GATEWAY
from roomcast.web.ops import health

READY = {"broker": "ok", "connections": "ok", "plugins": "ok"}


class HangingBroker(MemoryBroker):
    """A broker that never answers a ping, like a process that is stopped."""

    async def ping(self) -> None:
        await asyncio.Event().wait()


async def get(client: TestClient, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Return the status and the body of a GET, by default without a key."""
    response = await client.get(path, headers=headers)
    return response.status, await response.json()


@pytest.mark.parametrize("settings", [{}, {"api_key": None}])
async def test_a_healthy_node_is_live_and_ready(gateway_client: GatewayClient, settings: dict):
    """No key is needed, even if API_KEY is set. The responses are not cached."""
    client = await gateway_client(**settings)
    for method in ("GET", "HEAD"):
        for path in ("/health/live", "/health/ready"):
            response = await client.request(method, path)
            assert response.status == 200
            assert response.headers["Cache-Control"] == "no-store"
    assert await get(client, "/health/live") == (200, {"live": True})
    assert await get(client, "/health/ready") == (200, {"ready": True, "parts": READY})


async def test_a_node_without_its_broker_is_live_but_not_ready(gateway_client: GatewayClient):
    """The 503 names the broker. The node stays live, because a restart would not help."""
    client = await gateway_client()
    await client.app[GATEWAY].broker.close()
    status, body = await get(client, "/health/ready")
    assert (status, body["ready"]) == (503, False)
    assert body["parts"] == {"broker": health.BROKER_DOWN, "connections": "ok", "plugins": "ok"}
    status, body = await get(client, "/health/ready", WITH_KEY)
    assert (status, body["ready"]) == (503, False)
    assert "embedded broker is not running" in body["parts"]["broker"]
    assert await get(client, "/health/live") == (200, {"live": True})


async def test_a_broker_that_hangs_is_503(gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch):
    """The check has a timeout, because a broker that hangs raises nothing."""
    monkeypatch.setattr(health, "PING_TIMEOUT", 0.05)
    client = await gateway_client(broker=HangingBroker())
    status, body = await get(client, "/health/ready", WITH_KEY)
    assert (status, body["parts"]["broker"]) == (503, "The broker gave no answer in 0.05 s.")
    assert (await get(client, "/health/ready"))[0] == 503
    assert await get(client, "/health/live") == (200, {"live": True})


async def test_a_redis_that_is_down_is_503(gateway_client: GatewayClient, fresh_redis: FreshRedis):
    """With the key, the response contains the address of the server, but not its password.

    Without it, or with a wrong key, it contains neither. The node is ready after a restart.
    """
    redis = await fresh_redis(password="pa55")
    client = await gateway_client(broker=RedisBroker(parse(redis.url)))
    assert await get(client, "/health/ready") == (200, {"ready": True, "parts": READY})
    redis.kill()
    for headers in (None, bearer("wrong")):
        status, body = await get(client, "/health/ready", headers)
        assert (status, body["ready"], body["parts"]["broker"]) == (503, False, health.BROKER_DOWN)
    status, body = await get(client, "/health/ready", WITH_KEY)
    assert (status, body["ready"]) == (503, False)
    assert f"Redis at {redis.address}" in body["parts"]["broker"]
    assert "pa55" not in body["parts"]["broker"]
    assert await get(client, "/health/live") == (200, {"live": True})
    await redis.start()
    async with asyncio.timeout(PATIENCE):
        while (await get(client, "/health/ready"))[0] != 200:
            await asyncio.sleep(0.02)


async def test_a_draining_node_is_live_but_not_ready(gateway_client: GatewayClient):
    """Load balancers with an open connection receive 503, so that they send no more clients."""
    client = await gateway_client(drain_seconds=2)
    async with connect(client) as alice, connect(client, 2, "bob") as bob:
        assert (await get(client, "/health/ready"))[0] == 200
        stopping = asyncio.create_task(client.app[GATEWAY].drain())
        assert await alice.closed() == (1012, "Service Restart")
        status, body = await get(client, "/health/ready")
        assert status == 503
        assert body == {"ready": False, "parts": {**READY, "connections": "draining: the server is about to stop"}}
        assert (await get(client, "/health/live"))[0] == 200
        assert not stopping.done()
        assert await bob.closed() == (1012, "Service Restart")
        await stopping


async def test_health_checks_reveal_no_secrets(gateway_client: GatewayClient):
    """The responses contain no key, no user and no room."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join("channel:1")
        for path in ("/health/live", "/health/ready"):
            text = await (await client.get(path)).text()
            assert not [word for word in (KEY, "alice", "channel") if word in text]
