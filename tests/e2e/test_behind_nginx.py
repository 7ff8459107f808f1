"""Three nodes behind nginx, as in docs/operations.md: no event is lost when a node restarts or crashes."""

from __future__ import annotations

import asyncio
import itertools
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import websockets
from nginx import Nginx
from redis_servers import RedisServer, free_port
from serving import PATH, PATIENCE
from shell import API_KEY, SECRET, Running
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token

ROOM = "channel:1"
#: The title of the last event.
LAST = "the last"
#: What a client gets when its node ends, or when it connects while a node ends.
DISCONNECTED = (websockets.ConnectionClosed, websockets.InvalidStatus, OSError)
pytest_plugins = ["certificates"]


class Site:
    """Three nodes behind nginx."""

    def __init__(self, redis_server: RedisServer, prefix: str, certificate: Path, folder: Path) -> None:
        self._variables = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": prefix, "TRUST_PROXY": "true"}
        self._ports = [free_port() for _ in range(3)]
        self.nodes = [self._start(port) for port in self._ports]
        self.nginx = Nginx(self._ports, certificate, folder)
        self.tls = ssl.create_default_context(cafile=str(certificate))

    def _start(self, port: int) -> Running:
        return Running("serve", "--port", str(port), **self._variables)

    @property
    def address(self) -> str:
        """Host and port of nginx."""
        return f"127.0.0.1:{self.nginx.port}"

    async def restart(self, number: int) -> None:
        """Start a node that has ended, at the same port."""
        self.nodes[number] = await asyncio.to_thread(self._start, self._ports[number])

    def connect(self, user: int, **options: Any) -> websockets.connect:
        """Open a connection of ``user`` through nginx."""
        token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
        return websockets.connect(f"wss://{self.address}{PATH}?token={token}", ssl=self.tls, proxy=None, **options)

    @asynccontextmanager
    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> AsyncIterator[Any]:
        """Send a request of a backend through nginx."""
        given = {"Authorization": f"Bearer {API_KEY}", **headers}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
            session.request(
                method, f"https://{self.address}{path}", headers=given, data=orjson.dumps(body), ssl=self.tls
            ) as response,
        ):
            yield response

    async def stop(self) -> None:
        """Stop nginx and all nodes."""
        with self.nginx:
            await asyncio.gather(*[asyncio.to_thread(node.stop) for node in self.nodes])


@pytest.fixture
async def site(redis_server: RedisServer, redis_prefix: str, certificate: Path, tmp_path: Path) -> AsyncIterator[Site]:
    """Start a site, and wait until it accepts connections."""
    site = Site(redis_server, redis_prefix, certificate, tmp_path)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await is_ready(site):
                await asyncio.sleep(0.02)
        yield site
    finally:
        await site.stop()


async def is_ready(site: Site) -> bool:
    """Return True if nginx listens and a node behind it is ready."""
    try:
        async with site.call("GET", "/health/ready") as answer:
            return answer.status == 200
    except OSError:
        return False


class Subscriber:
    """A client that reconnects after each close and resumes from its last id, as a page with roomcast.js does.

    ``numbers`` are the numbers of the events that it received, ``codes`` the close codes of its connections.
    """

    def __init__(self, site: Site, user: int) -> None:
        self._site = site
        self._user = user
        self._last: str | None = None
        self._is_done = False
        self.numbers: list[int] = []
        self.codes: list[int] = []
        self.joined = asyncio.Event()

    async def run(self) -> None:
        """Receive events until the last one."""
        while not self._is_done:
            try:
                async with self._site.connect(self._user) as socket:
                    await self._receive(socket)
            except DISCONNECTED as error:
                if isinstance(error, websockets.ConnectionClosed):
                    self.codes.append(error.rcvd.code if error.rcvd else 1006)
                await asyncio.sleep(0.05)

    async def _receive(self, socket: ClientConnection) -> None:
        join = {"type": "join_room", "room": ROOM, "data": {"since": self._last}}
        await socket.send(orjson.dumps(join).decode())
        while not self._is_done:
            frame = orjson.loads(await socket.recv())
            assert frame["type"] != "resync"
            if frame["type"] == "joined_room":
                assert frame["data"]["recovered"] is (self._last is not None)
                self._last = self._last or frame["data"]["last_id"]
                self.joined.set()
            elif frame["type"] == "task.created":
                self._last = frame["id"]
                self.numbers.append(frame["data"]["task_id"])
                self._is_done = frame["data"]["title"] == LAST


@asynccontextmanager
async def subscribing(site: Site, count: int) -> AsyncIterator[list[Subscriber]]:
    """Run ``count`` subscribers that have joined the room. At the end, wait until they have received the last event."""
    subscribers = [Subscriber(site, user) for user in range(1, count + 1)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for subscriber in subscribers:
            group.create_task(subscriber.run())
        for subscriber in subscribers:
            await subscriber.joined.wait()
        yield subscribers


async def publish(site: Site, number: int, title: str = "one of many") -> None:
    """Publish an event as a backend should: retry with the same key until it is accepted."""
    event = {"type": "task.created", "room": ROOM, "data": {"task_id": number, "title": title}}
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aiohttp.ClientError):
                async with site.call("POST", "/api/v1/events", event, **{"Idempotency-Key": str(number)}) as answer:
                    if answer.ok:
                        return
                    assert answer.status in (409, 502, 503, 504), await answer.text()
            await asyncio.sleep(0.02)


async def test_rolling_restart(site: Site) -> None:
    """30 clients receive each event of a backend once and in order. All are closed with 1012."""
    all_restarted = asyncio.Event()

    async def publish_all() -> int:
        for number in itertools.count():
            if all_restarted.is_set():
                await publish(site, number, LAST)
                return number
            await publish(site, number)
        raise AssertionError

    async with subscribing(site, 30) as subscribers, asyncio.TaskGroup() as group:
        published = group.create_task(publish_all())
        for number in range(3):
            assert await asyncio.to_thread(site.nodes[number].stop) == 0
            await site.restart(number)
        all_restarted.set()
    for subscriber in subscribers:
        assert subscriber.numbers == list(range(published.result() + 1))
        assert set(subscriber.codes) <= {1012}
    assert sum(len(subscriber.codes) for subscriber in subscribers) >= 30


async def test_killed_node(site: Site) -> None:
    """Clients of a killed node reconnect to the other nodes and miss no event. Clients of those stay connected."""
    async with subscribing(site, 30) as subscribers:
        for number in range(10):
            await publish(site, number)
        site.nodes[1].process.kill()
        for number in range(10, 20):
            await publish(site, number)
        await publish(site, 20, LAST)
    assert all(subscriber.numbers == list(range(21)) for subscriber in subscribers)
    lost = [subscriber.codes for subscriber in subscribers if subscriber.codes]
    assert 0 < len(lost) < 30
    assert all(ends == [1006] for ends in lost)  # no close frame


async def test_addresses_origins_metrics_and_logs(site: Site) -> None:
    """Nodes get the addresses of clients and the origins of pages. Metrics are not public. Tokens are not logged."""
    for spoofed in ({}, {"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}):
        async with site.connect(1, local_addr=("127.0.0.9", 0), additional_headers=spoofed) as socket:
            await socket.recv()
    with pytest.raises(websockets.InvalidStatus, match="403"):
        await site.connect(1, origin="https://elsewhere.example")
    async with site.connect(1, origin=f"https://{site.address}") as socket:
        assert orjson.loads(await socket.recv())["type"] == "connected"
    async with site.call("GET", "/metrics") as answer:
        assert answer.status == 404
        assert "roomcast_" not in await answer.text()
    await site.stop()
    ended = [line for node in site.nodes for line in node.err if "connection ended" in line]
    assert sorted(re.search(r"from (\S+) after", line)[1] for line in ended) == ["127.0.0.1", *["127.0.0.9"] * 3]
    log = site.nginx.log.read_text()
    assert f"GET {PATH} 101" in log
    assert "token" not in log
