"""A real PostgreSQL for tests, which tests may kill and restart.

::

    async with PostgresServer() as server:
        dsn = server.create_database()
"""

from __future__ import annotations

import getpass
import os
import pwd
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from redis_servers import PATIENCE, free_port

MISSING = "there is no PostgreSQL: install one (`apt-get install postgresql`)"
#: ``initdb`` refuses to run as root. Debian creates the first of these users with the server.
_USERS = ("postgres", "nobody")


def find_programs() -> Path:
    """Return the folder with ``initdb``. Without one, skip the test, or fail it if CI=true."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if folders:
        return folders[-1]
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(MISSING)


class PostgresServer:
    """A server on a port of 127.0.0.1, with its own directory. It survives ``kill``, but not a crash of the machine.

    ``config`` are lines of its configuration.
    """

    def __init__(self, **config: object) -> None:
        self._programs = find_programs()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user = next(user for user in _USERS if _exists(user)) if os.geteuid() == 0 else getpass.getuser()
        self._config = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 50,
            "max_prepared_transactions": 10,
            **config,
        }
        if os.geteuid() == 0:
            shutil.chown(self.directory, self._user)
        arguments = ("-D", str(self._data), "-U", "test", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        done = subprocess.run(self._command("initdb", *arguments), capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() != 0:
            return command
        user = pwd.getpwnam(self._user)
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        return ["setpriv", *ids, "--pdeathsig", "KILL", "--", *command]

    def start(self) -> None:
        """Start, or restart after ``kill``; wait until the server answers."""
        options = [option for name, value in self._config.items() for option in ("-c", f"{name}={value}")]
        command = self._command("postgres", "-D", str(self._data), "-p", str(self.port), *options)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self._process.poll() is None, (self.directory / "log").read_text()
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.02)

    @property
    def pid(self) -> int:
        """The id of the process. The server must be running."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def kill(self) -> None:
        """End the server and its connections at once, as a crash does."""
        if self._process is not None:
            command = self._command("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        """Kill the server and delete its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def dsn(self, database: str) -> str:
        """Return the DSN of ``database``."""
        return f"postgresql://test@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Create an empty database; return its DSN."""
        name = f"test_{random.getrandbits(40):x}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type, unused-ignore]
        return self.dsn(name)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start one server for the whole run. Tests must not harm it, and use databases of their own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
