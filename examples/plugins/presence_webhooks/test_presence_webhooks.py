"""Tests of the presence webhooks, on the embedded broker, on Redis and on two nodes."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

pytestmark = pytest.mark.all_brokers


@pytest.fixture
async def backend():
    async def receive(request):
        server.requests += 1
        if server.requests == 1:  # the first attempt fails
            return web.Response(status=503)
        server.received.put_nowait((request.headers["Authorization"], await request.json()))
        return web.Response()

    async with RawTestServer(receive) as server:
        server.requests, server.received = 0, asyncio.Queue()
        yield server


@pytest.fixture
def roomcast_settings(backend):
    variables = {"PRESENCE_WEBHOOKS_URL": str(backend.make_url("/")), "PRESENCE_WEBHOOKS_TOKEN": "secret"}
    return {"presence_grace": 0.1, "plugin_variables": variables}


async def test_each_change_is_sent_once(connect, backend):
    clients = [await connect("alice") for _ in range(2)]
    assert await backend.received.get() == ("Bearer secret", {"user_id": "alice", "online": True})
    for client in clients:
        await client.close()
    assert await backend.received.get() == ("Bearer secret", {"user_id": "alice", "online": False})
    assert backend.received.empty()
