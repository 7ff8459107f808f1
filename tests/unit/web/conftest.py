"""The fixture of the tests of HTTP: a client of an application that no ``Server`` serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest_asyncio
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient, AiohttpServer
from serving import PATIENCE, GatewayClient, new_gateway, no_tasks_left

from roomcast.web.port import RUNNER_OPTIONS
from roomcast.web.server import create_app


@pytest_asyncio.fixture
async def gateway_client(aiohttp_server: AiohttpServer, aiohttp_client: AiohttpClient) -> AsyncIterator[GatewayClient]:
    """Start gateways: ``await gateway_client(**settings)`` returns aiohttp's test client of a new one.

    Takes ``dev`` and the options of ``serving.new_gateway``. The gateway is ``client.app[GATEWAY]``.
    """
    async with no_tasks_left(), AsyncExitStack() as stack:

        async def start(*, dev: bool = False, **options: Any) -> TestClient[Any, Any]:
            gateway = new_gateway(**options)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            server = await aiohttp_server(create_app(gateway, dev=dev), **RUNNER_OPTIONS)
            stack.push_async_callback(server.close)
            client = await aiohttp_client(server, timeout=aiohttp.ClientTimeout(total=PATIENCE))
            stack.push_async_callback(client.close)
            return client

        yield start
