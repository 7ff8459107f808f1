"""Measure how long clients of roomcast.js take to return to a server that restarts.

::

    python tests/bench/reconnect.py [--clients N] [--down S] [--runs N] [--module FILE] [--only NAME,...]

The clients run in four processes of Node 22 (NODE, or from the PATH) with the default options, and each joins a room.
The server is stopped and started again so that it listens ``--down`` seconds after its end. Rows:

- kill: SIGKILL, as in a crash. All clients lose their connections at once.
- stop: SIGTERM with ``DRAIN_SECONDS=0``. All clients are closed with 1012 at once.
- drain: SIGTERM with the default ``DRAIN_SECONDS``. The clients are closed with 1012 one after the other.

Columns, as medians of the runs: how long no server listened; the time from the moment that the server listens again
until a client is in its room again (50th and 99th percentile, and the last client); the time from the loss of a
client's connection until then; the attempts to connect per client; and the largest number of clients that returned
within 100 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from processes import HERE, Failed, Process

from roomcast.auth.identity import make_token

PROCESSES = 4
#: Runs roomcast after a line of input. Importing it beforehand makes the time without a server exact.
STANDBY = """
import sys
import roomcast.workers.process
from roomcast.cli import main
print("standby", flush=True)
sys.stdin.readline()
main(prog_name="roomcast")
"""
#: Each row: the signal, and the settings of the server.
ROWS = {
    "kill": (signal.SIGKILL, {}),
    "stop": (signal.SIGTERM, {"DRAIN_SECONDS": "0"}),
    "drain": (signal.SIGTERM, {}),
}
COLUMNS = ("down s", "back p50", "p99", "last", "lost p50", "p99", "attempts", "peak/100 ms")
CPUS = frozenset(os.sched_getaffinity(0))


def measure(folder: Path, clients: int, down: float, module: Path, row: str) -> list[float]:
    """Restart a server with ``clients`` clients, and return one figure for each column."""
    number, settings = ROWS[row]
    secret, port = secrets.token_hex(32), _free_port()
    environment = {"JWT_SECRET": secret, "WS_MESSAGE_RATE": "100", **settings}
    command = [sys.executable, "-c", STANDBY, "serve", "--host", "127.0.0.1", "--port", str(port)]
    tokens = [make_token(secret, user_id=n + 1, username=f"user{n}", rooms=["*"]) for n in range(clients)]
    with ExitStack() as stack:
        servers = []
        for name in ("server", "server-again"):
            servers.append(Process(name, command, folder, CPUS, environment, subprocess.PIPE))
            stack.callback(servers[-1].kill)
            _wait_until_standby(servers[-1])
        begun = time.monotonic()
        _listen(servers[0], port)
        startup = time.monotonic() - begun
        groups = [_start_clients(stack, folder, module, port, tokens[n::PROCESSES]) for n in range(PROCESSES)]
        for group in groups:
            assert group.stdout is not None
            if group.stdout.readline() != "ready\n":
                raise Failed("the clients could not connect")
        servers[0].child.send_signal(number)
        servers[0].child.wait()
        ended = time.time()
        time.sleep(max(0.0, down - startup))
        _listen(servers[1], port)
        listens = time.time()
        results = [result for group in groups for result in json.loads(group.communicate()[0])]
    return _figures(results, ended, listens)


def _wait_until_standby(server: Process) -> None:
    assert server.child.stdout is not None
    if not server.child.stdout.readline():
        raise server.failed("did not start")


def _listen(server: Process, port: int) -> None:
    assert server.child.stdin is not None
    server.child.stdin.write("\n")
    server.child.stdin.flush()
    server.wait_for(port)


def _free_port() -> int:
    """Return a free port below those of outgoing connections.

    One of thousands of attempts to connect to such a port, while no server listens, would connect to itself.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _start_clients(
    stack: ExitStack, folder: Path, module: Path, port: int, tokens: Sequence[str]
) -> subprocess.Popen[str]:
    file = folder / "tokens"
    file.write_text("\n".join(tokens))
    node = os.environ.get("NODE") or shutil.which("node") or "node"
    command = [node, str(HERE / "reconnect_clients.mjs"), module.resolve().as_uri(), f"ws://127.0.0.1:{port}"]
    with file.open() as stdin:
        clients = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)
    stack.callback(clients.kill)
    return clients


def _figures(results: list[dict[str, Any]], ended: float, listens: float) -> list[float]:
    back = sorted(one["returned"] / 1000 - listens for one in results)
    lost = sorted((one["returned"] - one["lost"]) / 1000 for one in results)
    peak = max(Counter(int(moment * 10) for moment in back).values())
    attempts = statistics.mean(one["attempts"] for one in results)
    last = len(results) - 1
    p50, p99 = last // 2, last * 99 // 100
    return [listens - ended, back[p50], back[p99], back[-1], lost[p50], lost[p99], attempts, peak]


def main() -> int:
    """Measure the rows of the command line, and print a table."""
    parser = argparse.ArgumentParser(description="Measure how long roomcast.js clients take to return after a restart.")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--down", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--module", type=Path, default=HERE.parent.parent / "static" / "roomcast.js")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS))
    options = parser.parse_args()
    print(f"{'':6}", *(f"{column:>12}" for column in COLUMNS))
    for row in options.only:
        with tempfile.TemporaryDirectory(prefix="roomcast-bench-") as folder:
            runs = [
                measure(Path(folder), options.clients, options.down, options.module, row) for _ in range(options.runs)
            ]
        medians = [statistics.median(figures) for figures in zip(*runs, strict=True)]
        print(f"{row:6}", *(f"{figure:12.2f}" for figure in medians), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
