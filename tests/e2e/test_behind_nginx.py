"""Three nodes behind the nginx of docs/operations.md: clients miss nothing when a node restarts or is killed."""

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
LAST = "the last"
#: What a client meets whose node goes, or that comes while one is on its way.
LOST = (websockets.ConnectionClosed, websockets.InvalidStatus, OSError)
pytest_plugins = ["certificates"]


class Site:
    """Three nodes, and nginx before them."""

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
        """Host and port, as a page names them."""
        return f"127.0.0.1:{self.nginx.port}"

    async def start_again(self, number: int) -> None:
        """Start a node that has ended, where it was."""
        self.nodes[number] = await asyncio.to_thread(self._start, self._ports[number])

    def connect(self, user: int, **options: Any) -> websockets.connect:
        """A connection of ``user`` through nginx."""
        token = make_token(SECRET, user_id=user, username=f"user{user}", rooms=["*"])
        return websockets.connect(f"wss://{self.address}{PATH}?token={token}", ssl=self.tls, proxy=None, **options)

    @asynccontextmanager
    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> AsyncIterator[Any]:
        """An answer to a backend's call, through nginx."""
        given = {"Authorization": f"Bearer {API_KEY}", **headers}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
            session.request(
                method, f"https://{self.address}{path}", headers=given, data=orjson.dumps(body), ssl=self.tls
            ) as response,
        ):
            yield response

    async def stop(self) -> None:
        """End all of it."""
        with self.nginx:
            await asyncio.gather(*[asyncio.to_thread(node.stop) for node in self.nodes])


@pytest.fixture
async def site(redis_server: RedisServer, redis_prefix: str, certificate: Path, tmp_path: Path) -> AsyncIterator[Site]:
    """A site, which accepts connections."""
    site = Site(redis_server, redis_prefix, certificate, tmp_path)
    try:
        async with asyncio.timeout(PATIENCE):
            while not await answers(site):
                await asyncio.sleep(0.02)
        yield site
    finally:
        await site.stop()


async def answers(site: Site) -> bool:
    """Whether nginx listens, and a node is ready behind it."""
    try:
        async with site.call("GET", "/health/ready") as answer:
            return answer.status == 200
    except OSError:
        return False


class Listener:
    """A client that comes back whenever it is sent away, and says where it was: what a page with roomcast.js does.

    ``numbers`` are those of the events it has heard, ``ends`` how its connections ended.
    """

    def __init__(self, site: Site, user: int) -> None:
        self._site = site
        self._user = user
        self._last: str | None = None
        self._over = False
        self.numbers: list[int] = []
        self.ends: list[int] = []
        self.inside = asyncio.Event()

    async def listen(self) -> None:
        """Listen until the last event was heard."""
        while not self._over:
            try:
                async with self._site.connect(self._user) as socket:
                    await self._stay(socket)
            except LOST as error:
                if isinstance(error, websockets.ConnectionClosed):
                    self.ends.append(error.rcvd.code if error.rcvd else 1006)
                await asyncio.sleep(0.05)

    async def _stay(self, socket: ClientConnection) -> None:
        join = {"type": "join_room", "room": ROOM, "data": {"since": self._last}}
        await socket.send(orjson.dumps(join).decode())
        while not self._over:
            frame = orjson.loads(await socket.recv())
            assert frame["type"] != "resync"
            if frame["type"] == "joined_room":
                assert frame["data"]["recovered"] is (self._last is not None)
                self._last = self._last or frame["data"]["last_id"]
                self.inside.set()
            elif frame["type"] == "task.created":
                self._last = frame["id"]
                self.numbers.append(frame["data"]["task_id"])
                self._over = frame["data"]["title"] == LAST


@asynccontextmanager
async def listening(site: Site, count: int) -> AsyncIterator[list[Listener]]:
    """So many listeners that are in the room; when this is left they have heard the last event."""
    listeners = [Listener(site, user) for user in range(1, count + 1)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for listener in listeners:
            group.create_task(listener.listen())
        for listener in listeners:
            await listener.inside.wait()
        yield listeners


async def publish(site: Site, number: int, title: str = "one of many") -> None:
    """Publish an event as a backend should: again, with its key, until it is told that it was."""
    event = {"type": "task.created", "room": ROOM, "data": {"task_id": number, "title": title}}
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aiohttp.ClientError):
                async with site.call("POST", "/api/v1/events", event, **{"Idempotency-Key": str(number)}) as answer:
                    if answer.ok:
                        return
                    assert answer.status in (409, 502, 503, 504), await answer.text()
            await asyncio.sleep(0.02)


async def test_one_node_after_the_other_is_restarted(site: Site) -> None:
    """30 clients hear everything that a backend publishes meanwhile, each event once, in order; all were told 1012."""
    over = asyncio.Event()

    async def go_on() -> int:
        for number in itertools.count():
            if over.is_set():
                await publish(site, number, LAST)
                return number
            await publish(site, number)
        raise AssertionError

    async with listening(site, 30) as listeners, asyncio.TaskGroup() as group:
        published = group.create_task(go_on())
        for number in range(3):
            assert await asyncio.to_thread(site.nodes[number].stop) == 0
            await site.start_again(number)
        over.set()
    for listener in listeners:
        assert listener.numbers == list(range(published.result() + 1))
        assert set(listener.ends) <= {1012}
    assert sum(len(listener.ends) for listener in listeners) >= 30


async def test_a_node_is_killed(site: Site) -> None:
    """Its clients come back to the others by themselves and miss nothing; the others' notice nothing."""
    async with listening(site, 30) as listeners:
        for number in range(10):
            await publish(site, number)
        site.nodes[1].process.kill()
        for number in range(10, 20):
            await publish(site, number)
        await publish(site, 20, LAST)
    assert all(listener.numbers == list(range(21)) for listener in listeners)
    lost = [listener.ends for listener in listeners if listener.ends]
    assert 0 < len(lost) < 30
    assert all(ends == [1006] for ends in lost)  # no close frame: nobody was there to send one


async def test_what_passes_and_what_does_not(site: Site) -> None:
    """Clients' addresses and pages' hosts reach the nodes; metrics stay inside, and tokens out of nginx's log."""
    for spoofed in ({}, {"X-Forwarded-For": "192.0.2.1"}):
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
    assert sorted(re.search(r"from (\S+) after", line)[1] for line in ended) == ["127.0.0.1", "127.0.0.9", "127.0.0.9"]
    log = site.nginx.log.read_text()
    assert f"GET {PATH} 101" in log
    assert "token" not in log
