"""Attacks on a server in a process of its own, and how they affect two clients that have nothing to do with them.

Each program in ``tests/abuse`` is one attack. Its test runs the attack for a few seconds; run by hand, the program
prints the figures::

    async def attack(target: Target) -> Outcome: ...

    ATTACK = Attack(attack, __file__, HANDSHAKE_TIMEOUT="1")

    async def test_others_are_not_delayed() -> None:
        report = await ATTACK.measure()
        report.check_others()
        assert report.outcome == ...

    if __name__ == "__main__":
        ATTACK.main()

The server, the attacker and the two clients are three processes. The clients send each other messages at a fixed rate,
first without the attack and then during it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import websockets
from handshakes import request as handshake
from serving import PATH, SECRET, User, connect, token_for
from shell import PATIENCE, Running
from waiting import wait_until
from wire import Peer

#: How long the attack lasts in a test, and by hand, in seconds.
TEST_SECONDS = 2.0
HAND_SECONDS = 8.0
#: How many messages a second each of the two clients sends.
RATE = 25
ROOM = "channel:1"
#: How many connections an attacker with a token has, which is the most that one user may have.
CONNECTIONS = 5
#: The option with which a program runs only the attack: the port of the server and the number of seconds follow.
_OPTION = "--attack"

#: What became of the attacker; it must be JSON.
Outcome = dict[str, Any]


class Target(NamedTuple):
    """What an attack knows: the port of the server on 127.0.0.1, and how many seconds to attack it."""

    port: int
    seconds: float

    async def connect(self, source: str | None = None, *, receive_buffer: int | None = None) -> Peer:
        """Connect a socket, from the address ``source`` if that is given."""
        return await Peer.connect(("127.0.0.1", self.port), source=source, receive_buffer=receive_buffer)

    async def websocket(self, user_id: int = 1, *, token: str | None = None, receive_buffer: int | None = None) -> Peer:
        """Connect a user, or a client with a wrong ``token``, and read the 101. Frames are not read."""
        peer = await self.connect(receive_buffer=receive_buffer)
        await peer.send(handshake(f"{PATH}?token={token or token_for(user_id)}"))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return peer

    async def flood(self, pieces: Iterable[bytes], *, begin: bytes = b"", user_id: int = 1) -> dict[str, Any]:
        """Let one user send on ``CONNECTIONS`` connections without a pause, and reconnect when the server closes.

        Each connection sends ``begin``, then the next of ``pieces`` again and again. Answers are read.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.seconds
        endless = itertools.cycle(pieces)
        closes: Counter[str] = Counter()
        sent = 0

        async def send(peer: Peer, piece: bytes) -> None:
            nonlocal sent
            await loop.sock_sendall(peer.socket, begin)
            while True:
                await loop.sock_sendall(peer.socket, piece)
                sent += len(piece)
                await asyncio.sleep(0)

        async def connect_again() -> None:
            while loop.time() < end:
                peer = await self.websocket(user_id)
                sending = asyncio.create_task(send(peer, next(endless)))
                try:
                    async with asyncio.timeout_at(end):
                        code, reason = await peer.closed_with()
                    closes[f"{code} {reason}"] += 1
                except (OSError, EOFError) as error:  # TimeoutError is an OSError
                    closes[type(error).__name__] += 1
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
                    peer.close()

        await asyncio.gather(*(connect_again() for _ in range(CONNECTIONS)))
        return {"MB sent": round(sent / 1e6, 1), "connections ended with": closes}


class Latency(NamedTuple):
    """The median and the 99th percentile of the time from sending a message until the other client has it, in ms."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Return the figures of all measured times."""
        cuts = quantiles(seconds, n=100, method="inclusive")
        return cls(cuts[49] * 1000, cuts[98] * 1000)

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms"


@dataclass(frozen=True)
class Report:
    """The figures of one attack. ``cpu`` is the server's CPU time during the attack, as a share of one core.

    ``log`` has the lines that the server has written.
    """

    baseline: Latency
    attacked: Latency
    lost: int
    cpu: float
    memory_mb: float
    outcome: Outcome
    log: list[str]

    def __str__(self) -> str:
        return (
            f"the others' baseline:  {self.baseline}\n"
            f"the others, attacked:  {self.attacked}; {self.lost} messages lost\n"
            f"the server:            {self.cpu:.0%} of a core; {self.memory_mb:+.0f} MB\n"
            f"the attacker:          {json.dumps(self.outcome)}"
        )

    def check_others(self) -> None:
        """Fail if the attack harmed the two clients. The bounds are generous, because a test shares its machine."""
        assert not self.lost, self
        assert self.attacked.p50 < max(100, 10 * self.baseline.p50), self
        assert self.attacked.p99 < max(1000, 20 * self.baseline.p99), self


class Attack:
    """One attack: the function ``run`` in the program ``file``, against a server with ``settings``."""

    def __init__(self, run: Callable[[Target], Awaitable[Outcome]], file: str, **settings: str) -> None:
        self._run = run
        self._file = Path(file)
        self._settings = settings

    def main(self) -> None:
        """Run the attack alone if the arguments ask for that, else measure it and print the figures."""
        if _OPTION in sys.argv:
            os.nice(10)  # otherwise the server has to share the processor with a process that usually is elsewhere
            target = Target(int(sys.argv[-2]), float(sys.argv[-1]))
            print("attacking", flush=True)
            print(json.dumps(asyncio.run(self._run(target))), flush=True)  # type: ignore[arg-type]
        else:
            print((self._run.__doc__ or "").strip(), end="\n\n")
            print(asyncio.run(self.measure(HAND_SECONDS)))

    async def measure(self, seconds: float = TEST_SECONDS) -> Report:
        """Measure the latency between two clients for ``seconds``, then during ``seconds`` of the attack."""
        async with AsyncExitStack() as stack:
            server = await asyncio.to_thread(Running, JWT_SECRET=SECRET, **self._settings)
            stack.push_async_callback(asyncio.to_thread, server.stop)
            port, pid = int(server.url.rpartition(":")[2]), server.process.pid
            pair = await stack.enter_async_context(_pair(port))
            baseline = await pair.measure_for(seconds)
            memory = _memory_mb(pid)
            async with self._attacker(port, seconds) as outcome:
                cpu, begun = _cpu_seconds(pid), time.monotonic()
                attacked = await pair.measure_until(outcome)
                share = (_cpu_seconds(pid) - cpu) / (time.monotonic() - begun)
            lost = await pair.finish()
            return Report(baseline, attacked, lost, share, _memory_mb(pid) - memory, outcome.result(), server.err)

    @asynccontextmanager
    async def _attacker(self, port: int, seconds: float) -> AsyncIterator[asyncio.Task[Outcome]]:
        """Start the attack in a process; yield a task that ends with its outcome, when it has begun."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(self._file), _OPTION, str(port), str(seconds)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                assert await process.stdout.readline() == b"attacking\n", "the attack did not start"
            yield asyncio.create_task(_read_outcome(process.stdout))
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()


async def _read_outcome(stream: asyncio.StreamReader) -> Outcome:
    async with asyncio.timeout(2 * PATIENCE):
        outcome: Outcome = json.loads(await stream.readline())
    return outcome


class _Port(NamedTuple):
    port: int


class _Pair:
    """Two clients in a room that send each other messages at the same rate, and measure how long these take."""

    def __init__(self, users: list[User]) -> None:
        self._users = users
        self._sent: dict[str, float] = {}
        self._times: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send and to receive."""
        for number, user in enumerate(self._users):
            self._tasks += [
                asyncio.create_task(self._send(user, number)),
                asyncio.create_task(self._receive(user, number)),
            ]

    async def _send(self, user: User, number: int) -> None:
        # Fixed times, so that messages are also due while the server does not answer.
        count, begun = 0, time.perf_counter() + number / RATE / 2
        while True:
            await asyncio.sleep(max(0, begun + count / RATE - time.perf_counter()))
            text = f"{number}/{count}"
            count += 1
            self._sent[text] = time.perf_counter()
            await user.send("send_message", ROOM, {"content": text})

    async def _receive(self, user: User, number: int) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                frame = json.loads(await user.socket.recv())
                if frame["type"] == "message" and not frame["data"]["content"].startswith(f"{number}/"):
                    self._times.append(time.perf_counter() - self._sent.pop(frame["data"]["content"]))

    async def measure_for(self, seconds: float) -> Latency:
        """Return the latency of the next ``seconds``."""
        return await self.measure_until(asyncio.create_task(asyncio.sleep(seconds)))

    async def measure_until(self, end: asyncio.Task[Any]) -> Latency:
        """Return the latency until ``end``. Messages that are still under way by then count with their age."""
        self._times.clear()
        await asyncio.wait([end, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        assert not any(task.done() for task in self._tasks), "one of the two clients lost its connection"
        now = time.perf_counter()
        return Latency.of([*self._times, *(now - sent for sent in self._sent.values())])

    async def finish(self) -> int:
        """Stop sending and wait for the messages under way; return how many of them do not arrive."""
        for task in self._tasks[::2]:
            task.cancel()
        with suppress(AssertionError):
            await wait_until(lambda: not self._sent)
        for task in self._tasks:
            task.cancel()
        return len(self._sent)


@asynccontextmanager
async def _pair(port: int) -> AsyncIterator[_Pair]:
    server = _Port(port)
    async with connect(server, 1001, "ann") as ann, connect(server, 1002, "ben") as ben:
        for user in (ann, ben):
            await user.join(ROOM)
        pair = _Pair([ann, ben])
        pair.start()
        yield pair


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    """Return the resident memory of a process; 0 where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
