"""Whole servers under a low limit of open files: plain, with TLS and with workers, and without any file left."""

import asyncio
import os
import resource
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import websockets
from shell import OPEN_FILES, SECRET, Process, Running
from waiting import wait_until
from wire import PATIENCE, Peer

from roomcast.auth.identity import make_token

pytest_plugins = ("certificates",)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FILES = 512
SOCKETS = 900
#: roomcast on asyncio's own event loop.
WITHOUT_UVLOOP = (
    sys.executable,
    "-c",
    "import sys; sys.modules['uvloop'] = None; from roomcast.cli import main; main()",
)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
#: What a socket sends before it is idle.
STATES = {"silent": b"", "incomplete": b"GET / HTTP/1.1\r\n", "idle": LIVE}


class Listening:
    """The addresses of a server, as ``Running`` has them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ws = url.replace("http", "ws", 1)


def open_files(server: Running) -> int:
    """Return the number of open files of a server."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def idle_sockets(server: Running | Listening, count: int, data: bytes = b"") -> AsyncIterator[list[Peer]]:
    """Connect ``count`` clients that send ``data`` and then nothing."""
    port = int(server.url.rpartition(":")[2])
    peers: list[Peer] = []
    try:
        for _ in range(count):
            peers.append(await Peer.connect(("127.0.0.1", port)))
            with suppress(OSError):  # the server has closed it to make room
                await peers[-1].send(data)
        yield peers
    finally:
        for peer in peers:
            peer.close()


def url_for(server: Running | Listening, user: int) -> str:
    """Return the URL with which a user connects."""
    token = make_token(SECRET, user_id=user, username="gus", rooms=["*"])
    return f"{server.ws}/api/v1/ws/connect?token={token}"


async def check_service(server: Running | Listening, trust: ssl.SSLContext | None = None) -> None:
    """Fail unless a new user is welcomed and the health checks are answered."""
    async with websockets.connect(url_for(server, 7), ssl=trust, proxy=None) as user:
        assert '"connected"' in str(await asyncio.wait_for(user.recv(), PATIENCE))
    for check in ("live", "ready"):
        ask = urllib.request.urlopen
        with await asyncio.to_thread(ask, f"{server.url}/health/{check}", timeout=PATIENCE, context=trust) as response:
            assert response.status == 200


async def check_attacked(
    server: Running, trust: ssl.SSLContext | None = None, *, workers: int = 1, data: bytes = b""
) -> None:
    """Open ``SOCKETS`` sockets, more than the server may have, and check that others are served."""
    async with idle_sockets(server, SOCKETS, data):
        await check_service(server, trust)
        await asyncio.to_thread(server.wait_for, "WARNING .*closed sockets", server.err, times=workers)
        await check_service(server, trust)
        assert len([line for line in server.err if "closed sockets" in line]) == workers


@pytest.mark.parametrize("data", STATES.values(), ids=STATES)
async def test_idle_sockets_do_not_lock_out_others(data):
    """The users have the address of the attacker. In the end all its sockets are closed."""
    with Running(**{OPEN_FILES: str(FILES)}) as server:
        before = open_files(server)
        await check_attacked(server, data=data)
        await wait_until(lambda: open_files(server) <= before + 2)


async def test_idle_sockets_do_not_lock_out_others_over_tls(certificate: Path):
    """Sockets that do not begin the TLS handshake are closed to make room."""
    trust = ssl.create_default_context(cafile=certificate)
    with Running("serve", "--port", "0", "--tls-cert", str(certificate), **{OPEN_FILES: str(FILES)}) as server:
        before = open_files(server)
        await check_attacked(server, trust)
        await wait_until(lambda: open_files(server) <= before + 2)


async def test_idle_sockets_do_not_lock_out_others_with_workers(redis_server, redis_prefix):
    """Each worker has its own limit, and its own line in the log."""
    options = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, OPEN_FILES: str(FILES)}
    with Running("serve", "--workers", "2", "--port", "0", **options) as server:
        await check_attacked(server, workers=2)


async def test_max_connections_is_divided_among_workers(redis_server, redis_prefix):
    """Each of two workers admits at most 5, so 10 of 60 users are welcomed."""
    options = {"REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix, "MAX_CONNECTIONS": "10"}
    with Running("serve", "--workers", "2", "--port", "0", **options) as server:
        ends = await asyncio.gather(*(connect_and_stay(server, user) for user in range(60)))
        codes = [code for _, code in ends]
        assert codes.count(None) == 10, codes
        assert codes.count(1013) == 50, codes
        for client, _ in ends:
            await client.close()


async def connect_and_stay(server: Running, user: int) -> tuple[websockets.ClientConnection, int | None]:
    """Connect a user; return the connection and its close code, None if it is welcomed."""
    client = await websockets.connect(url_for(server, user), proxy=None)
    try:
        await asyncio.wait_for(client.recv(), PATIENCE)
    except websockets.ConnectionClosed:
        return client, client.close_code
    return client, None


async def test_sockets_of_clients_that_have_left_are_closed():
    """A client that ends its side, in any state, leaves no socket that waits to be closed."""
    with Running() as server:
        before = open_files(server)
        async with AsyncExitStack() as stack:
            for data in STATES.values():
                for peer in await stack.enter_async_context(idle_sockets(server, 20, data)):
                    peer.socket.shutdown(socket.SHUT_WR)
            await wait_until(lambda: open_files(server) <= before + 2)


@contextmanager
def without_files(pid: int) -> Iterator[None]:
    """Let a process open hardly any further file during the block: the new limit is that of the files it has."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_without_any_file_left_the_log_has_one_line(loop):
    """Connections cannot be accepted then. The server does not spin, and accepts again when files can be opened."""
    command = {"command": WITHOUT_UVLOOP} if loop == "asyncio" else {}
    with Process("serve", "--port", "0", JWT_SECRET=SECRET, **command) as process:
        server = Listening(process.wait_for(r"listens on (\S+)", process.err)[1])
        with without_files(process.process.pid):
            async with idle_sockets(server, 50, LIVE):
                await asyncio.to_thread(process.wait_for, "ERROR .*no file descriptor was left", process.err)
                used, begun = cpu_seconds(process.process.pid), time.monotonic()
                await asyncio.sleep(2.5)
                assert cpu_seconds(process.process.pid) - used < 0.5 * (time.monotonic() - begun)
        await check_service(server)
        assert len([line for line in process.err if " ERROR " in line or "resource" in line]) == 1, process.err
