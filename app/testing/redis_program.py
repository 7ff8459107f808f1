"""A Redis server for tests, started from the program ``redis-server``."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

#: The programs that are tried, in this order. Valkey is a fork of Redis.
PROGRAMS: Final = ("redis-server", "valkey-server")
#: How long a server may take to answer, in seconds.
START_TIMEOUT: Final = 20.0
#: How many free ports are tried: another program may take one before the server binds it.
_ATTEMPTS: Final = 5


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server on a free port of 127.0.0.1, without files; yield its URL.

    Skips the test if neither ``redis-server`` nor ``valkey-server`` is installed. Raises ``RuntimeError`` with the
    output of the program if it does not start.
    """
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs a Redis server: neither {' nor '.join(PROGRAMS)} is on the PATH")
    with tempfile.TemporaryDirectory(prefix="roomcast-redis-") as folder:
        process, url = _start(program, Path(folder))
        try:
            yield url
        finally:
            process.kill()
            process.wait()


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    output = ""
    for _ in range(_ATTEMPTS):
        port = _free_port()
        options = f"--bind 127.0.0.1 --port {port} --dir {folder} --appendonly no".split()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  # the program is on the PATH
                [program, *options, "--save", ""], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if _answers(process, port):
            return process, f"redis://127.0.0.1:{port}"
        process.kill()
        process.wait()
        output = (folder / "log").read_text(errors="replace")
    raise RuntimeError(f"{program} did not start:\n{output}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server answers; return False if it ends, or does not answer in time."""
    deadline = time.monotonic() + START_TIMEOUT
    with Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0), socket_timeout=START_TIMEOUT) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(RedisError):
                # Another program may have taken the port.
                return bool(client.info("server")["process_id"] == process.pid)
            time.sleep(0.02)
    return False
