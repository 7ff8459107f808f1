"""Measure what clients notice if one of two nodes stops: announcements, resyncs, lost messages, the time away.

::

    python tests/bench/rolling_restart.py [--clients N] [--only NAME,...] [--lease S]

Two nodes on one Redis have half of the clients each, all in one room. The clients use roomcast.js with its default
options, in two processes of Node 22 (NODE, or from the PATH). A backend publishes 5 messages a second. One node stops,
and its clients return to the other one. Rows:

- drain: SIGTERM with the default ``DRAIN_SECONDS``.
- stop: SIGTERM with ``DRAIN_SECONDS=0``. All clients of the node are closed at once.
- kill: SIGKILL, as in a crash. The clients return before the leases of the node expire.
- gone: SIGKILL of the node and of its clients, which never return.

The exit status is 1 unless no client received a resync or an announcement, and all received each message once. In the
row ``gone``, each user who is gone must be announced once to each client.

Columns: the messages that were published, and that all clients lost or received twice; resyncs, ``user_joined`` and
``user_left`` that all clients received; the attempts to connect per client that returned; the longest time that a
client was away, in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from processes import HERE, Failed, Process, free_port, valkey_server

from roomcast.auth.identity import make_token

#: Each row: the signal, the settings of the nodes, and True if the clients of the node return.
ROWS = {
    "drain": (signal.SIGTERM, {}, True),
    "stop": (signal.SIGTERM, {"DRAIN_SECONDS": "0"}, True),
    "kill": (signal.SIGKILL, {}, True),
    "gone": (signal.SIGKILL, {}, False),
}
COLUMNS = ("published", "lost", "doubled", "resyncs", "joined", "left", "attempts", "away s")
CPUS = frozenset(os.sched_getaffinity(0))
ROOM = "channel:1"
#: How long clients may take to join or to return, in seconds.
PATIENCE = 60.0
#: How long the clients must receive no announcement before the node stops, in seconds.
QUIET = 2.0
PERIOD = 0.2


class Clients(Process):
    """A process with clients, most of which use the node of the first of ``urls``."""

    def __init__(self, name: str, folder: Path, module: Path, urls: list[str], tokens: list[str]) -> None:
        (folder / f"{name}.tokens").write_text("\n".join(tokens))
        node = os.environ.get("NODE") or shutil.which("node") or "node"
        program = [node, str(HERE / "rolling_restart_clients.mjs"), module.resolve().as_uri(), ",".join(urls)]
        command = f"exec {shlex.join(program)} < {shlex.quote(str(folder / f'{name}.tokens'))}"
        super().__init__(name, ["sh", "-c", command], folder, CPUS, pipes=subprocess.PIPE)
        self.count = len(tokens)

    def line(self) -> str:
        """Wait for the next line of output."""
        assert self.child.stdout is not None
        if not (line := self.child.stdout.readline()):
            raise self.failed("ended")
        return line

    def report(self) -> dict[str, Any]:
        """Return what the clients have received."""
        self.child.send_signal(signal.SIGUSR2)
        report: dict[str, Any] = json.loads(self.line())
        return report


class Scenario:
    """Two nodes on one Redis with clients in one room."""

    def __init__(self, stack: ExitStack, folder: Path, module: Path, clients: int, settings: dict[str, str]) -> None:
        redis_port, self.ports = free_port(), (free_port(), free_port())
        options = f"--bind 127.0.0.1 --port {redis_port} --save '' --appendonly no --dir {folder}"
        self.redis = self._start(stack, Process("redis", [valkey_server(), *shlex.split(options)], folder, CPUS))
        self.redis.wait_for(redis_port)
        secret, self.key = secrets.token_hex(32), secrets.token_hex(32)
        environment = {"JWT_SECRET": secret, "API_KEY": self.key, "REDIS_URL": f"redis://127.0.0.1:{redis_port}"}
        serve = [sys.executable, "-m", "roomcast", "serve", "--host", "127.0.0.1", "--port"]
        self.nodes = [
            self._start(stack, Process(f"node-{port}", [*serve, str(port)], folder, CPUS, environment | settings))
            for port in self.ports
        ]
        for node, port in zip(self.nodes, self.ports, strict=True):
            node.wait_for(port)
        tokens = [make_token(secret, user_id=n + 1, username=f"user{n}", rooms=["*"]) for n in range(clients)]
        urls = [f"ws://127.0.0.1:{port}" for port in self.ports]
        groups = ((urls, tokens[::2]), (urls[::-1], tokens[1::2]))
        self.groups = [
            self._start(stack, Clients(f"clients-{number}", folder, module, *group))
            for number, group in enumerate(groups)
        ]
        self.published = 0

    @staticmethod
    def _start(stack: ExitStack, process: Any) -> Any:
        stack.callback(process.kill)
        return process

    def publish(self) -> None:
        """Publish the next message, on the node that stays."""
        event = {
            "type": "message",
            "room": ROOM,
            "data": {"content": str(self.published), "username": "b", "user_id": 0},
        }
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.ports[1]}/api/v1/events"
        request = urllib.request.Request(url, json.dumps(event).encode(), headers)
        urllib.request.urlopen(request, timeout=10).close()
        self.published += 1

    def publish_until(self, groups: list[Clients], condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Publish messages until ``condition`` holds for the reports of ``groups``."""
        end = time.monotonic() + PATIENCE
        while not condition([group.report() for group in groups]):
            if time.monotonic() > end:
                raise Failed(f"not within {PATIENCE:g} s: {[_short(group.report()) for group in groups]}")
            for _ in range(5):
                self.publish()
                time.sleep(PERIOD)


def measure(folder: Path, clients: int, module: Path, row: str, lease: float) -> tuple[list[float], list[str]]:
    """Stop one of two nodes; return one figure for each column, and the problems."""
    number, settings, returns = ROWS[row]
    with ExitStack() as stack:
        scenario = Scenario(stack, folder, module, clients, {**settings, "REDIS_LEASE": str(lease)})
        for group in scenario.groups:
            if group.line() != "ready\n":
                raise group.failed("could not join")
        before = _wait_until_quiet(scenario.groups)
        scenario.publish()
        scenario.nodes[0].child.send_signal(number)
        left = clients // 2 if not returns else 0
        groups = scenario.groups
        if not returns:
            scenario.groups[0].kill()
            groups, before = groups[1:], before[1:]
        else:
            scenario.publish_until(groups, lambda reports: _are_lost(scenario, reports, before))
        present = sum(group.count for group in groups)
        scenario.publish_until(
            groups,
            lambda reports: (
                sum(report["here"] for report in reports) == present and _total(reports, before, "user_left") >= left
            ),
        )
        # Announcements that come too late are noticed, too: for longer than the lease and the grace.
        end = time.monotonic() + lease + 6
        scenario.publish_until(groups, lambda _: time.monotonic() > end)
        time.sleep(1)
        reports = [group.report() for group in groups]
    return _figures(scenario, reports, before, left * present)


def _are_lost(scenario: Scenario, reports: list[dict[str, Any]], before: list[dict[str, Any]]) -> bool:
    """Return True if the node has ended, and all of its clients have lost their connection."""
    has_ended = scenario.nodes[0].child.poll() is not None
    return has_ended and _total(reports, before, "attempts") >= scenario.groups[0].count


def _wait_until_quiet(groups: list[Clients]) -> list[dict[str, Any]]:
    """Wait until the joins have been announced; return the reports."""
    reports: list[dict[str, Any]] = []
    while True:
        last, reports = reports, [group.report() for group in groups]
        if reports == last:
            return reports
        time.sleep(QUIET)


def _total(reports: list[dict[str, Any]], before: list[dict[str, Any]], name: str) -> int:
    return sum(report[name] - was[name] for report, was in zip(reports, before, strict=True))


def _short(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "messages"}


def _figures(
    scenario: Scenario, reports: list[dict[str, Any]], before: list[dict[str, Any]], left: int
) -> tuple[list[float], list[str]]:
    expected = [str(number) for number in range(scenario.published)]
    received = [messages for report in reports for messages in report["messages"]]
    lost = sum(len(set(expected) - set(messages)) for messages in received)
    doubled = sum(len(messages) - len(set(messages)) for messages in received)
    resyncs, joined, gone = (_total(reports, before, name) for name in ("resync", "user_joined", "user_left"))
    away = max(report["away"] for report in reports)
    attempts = _total(reports, before, "attempts") / scenario.groups[0].count
    problems = [
        f"{what}: {found} instead of {wanted}"
        for what, found, wanted in (
            ("lost messages", lost, 0),
            ("doubled messages", doubled, 0),
            ("resyncs", resyncs, 0),
            ("user_joined", joined, 0),
            ("user_left", gone, left),
        )
        if found != wanted
    ]
    if any(messages != sorted(messages, key=int) for messages in received):
        problems.append("messages arrived in another order")
    return [scenario.published, lost, doubled, resyncs, joined, gone, attempts, away], problems


def main() -> int:
    """Measure the rows of the command line, and print a table. Return 1 if a client noticed the stop."""
    parser = argparse.ArgumentParser(description="Measure what clients notice if one of two nodes stops.")
    parser.add_argument("--clients", type=int, default=900)
    parser.add_argument("--module", type=Path, default=HERE.parent.parent / "static" / "roomcast.js")
    parser.add_argument("--lease", type=float, default=6.0, help="REDIS_LEASE in seconds (6)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS))
    options = parser.parse_args()
    print(f"{'':6}", *(f"{column:>10}" for column in COLUMNS), flush=True)
    failed = False
    for row in options.only:
        with tempfile.TemporaryDirectory(prefix="roomcast-bench-") as folder:
            figures, problems = measure(Path(folder), options.clients, options.module, row, options.lease)
        print(f"{row:6}", *(f"{figure:10.2f}" if figure % 1 else f"{figure:10.0f}" for figure in figures), flush=True)
        for problem in problems:
            print(f"  {problem}", flush=True)
        failed = failed or bool(problems)
    return int(failed)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
