"""Which signals stop a server, and which do not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from redis_servers import RedisServer, free_port
from shell import ROOMCAST, SECRET, Process, Running

pytestmark = pytest.mark.slow

#: Runs a command as the first process of a container.
UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


def is_live(server: Running) -> bool:
    """Return True if the server answers."""
    with urllib.request.urlopen(f"{server.url}/health/live") as response:
        return bool(json.load(response)["live"])


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [1, 2])
def test_other_signals_do_not_stop_a_server(workers: int, redis_server: RedisServer, redis_prefix: str) -> None:
    """SIGUSR1 and SIGUSR2 are logged and ignored, by each process. SIGHUP reloads, even if nothing can change."""
    options = ("serve", "--port", "0", "--workers", str(workers))
    with Running(*options, REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix) as server:
        processes = [server.process.pid, *(children(server.process.pid) if workers > 1 else ())]
        for pid in processes:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, number)
        server.wait_for("SIGUSR1: ignored", server.err, times=len(processes))
        server.wait_for("SIGUSR2: ignored", server.err, times=len(processes))
        server.signal(signal.SIGHUP)
        server.wait_for("reloaded: nothing has changed", server.err, times=workers)
        assert is_live(server)
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sigquit_drains(workers: int, redis_server: RedisServer, redis_prefix: str) -> None:
    """SIGQUIT is like SIGTERM, as for nginx."""
    options = ("serve", "--port", "0", "--workers", str(workers))
    with Running(*options, REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix) as server:
        server.signal(signal.SIGQUIT)
        assert server.ended() == 0
        assert any("SIGQUIT: closing connections" in line for line in server.err)


def test_a_plugin_may_handle_other_signals() -> None:
    """A handler that was set before the start stays."""
    program = (
        "import signal, sys; from roomcast.cli import main;"
        "signal.signal(signal.SIGUSR1, lambda *_: print('mine', file=sys.stderr)); main()"
    )
    with Running("serve", "--port", "0", command=(sys.executable, "-c", program)) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for("^mine$", server.err)
        assert is_live(server)


def test_closing_the_terminal_of_dev_stops_it() -> None:
    """SIGHUP stops ``roomcast dev``, so that no server is left behind. With nohup it continues."""
    with Running("dev", "--port", "0") as server:
        server.signal(signal.SIGHUP)
        assert server.ended() == 0
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *ROOMCAST)
    with Running("dev", "--port", "0", command=nohup) as server:
        server.signal(signal.SIGHUP)
        assert is_live(server)
        server.signal(signal.SIGINT)
        assert server.ended() == 0


def can_unshare() -> bool:
    """Return True if this user may create a process namespace."""
    return (
        shutil.which("unshare") is not None and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    )


@pytest.mark.skipif(not can_unshare(), reason="this user cannot create a process namespace")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_the_first_process_of_a_container(
    workers: int, redis_server: RedisServer, redis_prefix: str
) -> None:
    """The kernel has no default actions for signals to this process, so that it has to end by itself."""
    program = (
        "import sys, time; from roomcast.cli import main; from roomcast.gateway import gateway\n"
        "def block(*_): print('blocked', file=sys.stderr); time.sleep(1000)\n"
        "gateway.Gateway.start = block; main()"
    )
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix}
    command = (*UNSHARE, sys.executable, "-c", program)
    options = ("serve", "--port", str(free_port()), "--workers", str(workers))
    with Process(*options, command=command, **variables) as server:
        server.wait_for("blocked", server.err, times=workers)
        (first,) = children(server.process.pid)
        with suppress(ProcessLookupError):
            while server.process.poll() is None:  # two signals that arrive at once count as one
                os.kill(first, signal.SIGTERM)
        assert server.ended() == 128 + signal.SIGTERM
