"""A run of ``roomcast bench``: connect to a server, publish through some connections, and measure what arrives.

A message contains the time at which it was sent, by the monotonic clock of this machine. Each connection that receives
it computes its latency from that. Everything runs on one core: if ``Result.client_cpu`` is near 1, the client is the
bottleneck, not the server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import orjson

from ..errors import RoomcastError
from .bench_results import Latencies, Result, explain_result
from .exit_status import Denied, Unreachable
from .target import Target
from .websocket_client import End, WebSocketClient

#: The end of a run waits for missing messages until none has arrived for this many seconds.
SETTLE_TIMEOUT: Final = 2.0
#: A connection that has not joined its room after this many seconds counts as failed.
JOIN_TIMEOUT: Final = 30.0

#: The content of a message is ``@``, the time in nanoseconds, the number of its publisher, a space and the padding.
_MARK: Final = b'"content":"@'
_TIME_DIGITS: Final = 20
_PUBLISHER_DIGITS: Final = 8

#: The close codes and the codes of errors that mean that a token is wrong, or does not allow the room.
_DENIED: Final = frozenset({"4401", "4403", "bad_token", "forbidden"})


class Plan(NamedTuple):
    """The parameters of a run.

    ``tokens`` has one token for each connection. The connections are distributed evenly over ``rooms``, and so are the
    ``publishers`` among them. All publishers together send ``rate`` messages per second. If ``window`` is not 0, each
    publisher instead keeps that many messages in flight. ``duration`` is in seconds. At most ``ramp`` handshakes are in
    flight. ``size`` is the length of a message's content in characters.
    """

    target: Target
    tokens: Sequence[str]
    rooms: Sequence[str]
    publishers: int
    rate: float
    window: int
    duration: float
    ramp: int = 100
    size: int = 64


class Member(WebSocketClient):
    """One connection of a run, in one room."""

    __slots__ = ("_bench", "is_connected", "joined", "room")

    def __init__(self, bench: Bench, token: str, room: str) -> None:
        super().__init__(bench.plan.target, token)
        self._bench = bench
        self.room = room
        #: True after ``connected``.
        self.is_connected = False
        #: The result of joining the room.
        self.joined: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_open(self) -> None:
        """Join the room. A refused connection is opened too: the server closes it afterwards, with the reason."""
        self.send(orjson.dumps({"type": "join_room", "room": self.room}))

    def on_text(self, payload: bytes) -> None:
        """Count a delivery, or handle another frame."""
        at = payload.find(_MARK)
        if at >= 0:
            self._bench.on_delivery(self, payload, at + len(_MARK))
        elif payload.startswith(b'{"type":"joined_room"') and not self.joined.done():
            self.joined.set_result(True)
        elif payload.startswith(b'{"type":"connected"'):
            self.is_connected = True
            self._bench.opened += 1
        elif payload.startswith(b'{"type":"error"'):
            self._bench.on_error(self, payload)

    def on_end(self, end: End) -> None:
        """Count the end."""
        self._bench.on_end(self, end)
        if not self.joined.done():
            self.joined.set_result(False)


class Bench:
    """Carries out ``plan``. Calls ``progress`` every second with a line of text."""

    def __init__(self, plan: Plan, progress: Callable[[str], None]) -> None:
        self.plan: Final = plan
        self.opened = 0
        self._progress = progress
        self._loop: Final = asyncio.get_running_loop()
        #: The connections that have joined each room and have not ended.
        self._members: Final[dict[str, list[Member]]] = {room: [] for room in plan.rooms}
        self._publishers: list[Member] = []
        #: The number of each publisher. Its messages contain the number.
        self._numbers: dict[Member, int] = {}
        self._latencies: Final = Latencies()
        self._errors: Final[Counter[str]] = Counter()
        self._refused: Final[Counter[str]] = Counter()
        self._closes: Final[Counter[str]] = Counter()
        self._is_publishing = False
        self._is_over = False
        self._published = 0
        self._expected = 0
        self._delivered = 0
        self._padding = "x" * max(plan.size - len("@ ") - _TIME_DIGITS - _PUBLISHER_DIGITS, 0)

    async def run(self) -> Result:
        """Connect, publish, wait for missing messages and close. Raises ``RoomcastError`` if no connection joined."""
        reporter = self._loop.create_task(self._report())
        try:
            handshakes = await self._connect_all()
            cpu, begun = time.process_time(), time.monotonic()
            await self._publish_all()
            seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
            delivered = self._delivered
            await self._settle()
        finally:
            reporter.cancel()
            self._close_all()
        return self._result(handshakes, seconds, delivered, cpu / seconds)

    # Connecting.

    async def _connect_all(self) -> float:
        """Connect and join, with at most ``plan.ramp`` handshakes in flight. Return the handshakes per second."""
        queue = deque(enumerate(self.plan.tokens))
        begun = time.monotonic()

        async def connect_next() -> None:
            while queue:
                number, token = queue.popleft()
                await self._connect(Member(self, token, self.plan.rooms[number % len(self.plan.rooms)]))

        await asyncio.gather(*(connect_next() for _ in range(self.plan.ramp)))
        seconds = time.monotonic() - begun
        joined = interleave(list(self._members.values()))
        if not joined:
            problems = self._refused + self._closes + self._errors
            kind = Denied if all(what.split()[0] in _DENIED for what in problems) else RoomcastError
            shown = ", ".join(f"{number} x {what}" for what, number in problems.most_common())
            raise kind(f"No connection could join its room ({shown}).")
        self._publishers = joined[: self.plan.publishers]
        self._numbers = {member: number for number, member in enumerate(self._publishers)}
        return self.opened / seconds

    async def _connect(self, member: Member) -> None:
        try:
            await member.connect()
            async with asyncio.timeout(JOIN_TIMEOUT):
                has_joined = await member.joined
        except Unreachable:
            if not self.opened:
                raise
            self._refused["unreachable"] += 1
        except TimeoutError:
            self._closes["no answer"] += 1
            member.abort()
        else:
            if has_joined:
                self._members[member.room].append(member)

    # Publishing.

    async def _publish_all(self) -> None:
        """Publish for the plan's duration."""
        self._is_publishing = True
        if self.plan.window:
            for publisher in self._publishers:
                for _ in range(self.plan.window):
                    self._publish(publisher)
            await asyncio.sleep(self.plan.duration)
        else:
            await self._publish_at_rate()
        self._is_publishing = False

    async def _publish_at_rate(self) -> None:
        """Publish at the plan's rate. After a stall, publish the missed messages at once."""
        plan, begun, number = self.plan, time.monotonic(), 0
        total = round(plan.rate * plan.duration)
        while (now := time.monotonic() - begun) < plan.duration or number < total:
            if now > plan.duration * 1.5:
                return
            target = min(int(now * plan.rate) + 1, total)
            while number < target:
                self._publish(self._publishers[number % len(self._publishers)])
                number += 1
            next_time = number / plan.rate if number < total else plan.duration
            await asyncio.sleep(max(next_time - (time.monotonic() - begun), 0))

    def _publish(self, publisher: Member) -> None:
        if not publisher.is_open:
            return
        number = self._numbers[publisher]
        content = f"@{time.monotonic_ns():0{_TIME_DIGITS}d}{number:0{_PUBLISHER_DIGITS}d} {self._padding}"
        command = {"type": "send_message", "room": publisher.room, "data": {"content": content}}
        self._published += 1
        self._expected += len(self._members[publisher.room])
        publisher.send(orjson.dumps(command))

    def on_delivery(self, member: Member, payload: bytes, at: int) -> None:
        """Count a delivery to ``member``; its time of publishing is at the index ``at`` of ``payload``.

        In a window, the delivery of a member's own message lets the member publish the next one.
        """
        self._delivered += 1
        number_at = at + _TIME_DIGITS
        self._latencies.add(time.monotonic_ns() - int(payload[at:number_at]))
        if self.plan.window and self._is_publishing:
            number = self._numbers.get(member)
            if number is not None and number == int(payload[number_at : number_at + _PUBLISHER_DIGITS]):
                self._publish(member)

    def on_error(self, member: Member, payload: bytes) -> None:
        """Count an error frame. A refused message is not expected to arrive."""
        data = orjson.loads(payload)["data"]
        self._errors[str(data.get("code"))] += 1
        if not member.joined.done():
            member.joined.set_result(False)
        elif member in self._numbers:
            self._published -= 1
            self._expected -= len(self._members[member.room])
            if self.plan.window and self._is_publishing:
                self._loop.call_later(0.1, self._publish, member)

    def on_end(self, member: Member, end: End) -> None:
        """Count a connection that was closed or refused. Later messages are not expected to reach it."""
        if self._is_over:
            return
        (self._closes if member.is_connected else self._refused)[str(end)] += 1
        if member in self._members[member.room]:
            self._members[member.room].remove(member)

    async def _settle(self) -> None:
        """Wait until all expected messages have arrived, or none has arrived for ``SETTLE_TIMEOUT``."""
        last, since = self._delivered, time.monotonic()
        while self._delivered < self._expected and time.monotonic() - since < SETTLE_TIMEOUT:
            await asyncio.sleep(0.02)
            if self._delivered != last:
                last, since = self._delivered, time.monotonic()

    def _close_all(self) -> None:
        self._is_over = True
        for members in self._members.values():
            for member in members:
                member.close()

    # Reporting.

    async def _report(self) -> None:
        begun, before = time.monotonic(), 0
        while True:
            await asyncio.sleep(1)
            if self._is_publishing:
                arrived, before = self._delivered - before, self._delivered
                state = f"{arrived:,} deliveries/s, {self._published:,} published"
            else:
                state = f"{sum(map(len, self._members.values())):,} of {len(self.plan.tokens):,} connections"
            self._progress(f"{time.monotonic() - begun:4.0f} s: {state}")

    def _result(self, handshakes: float, seconds: float, delivered: int, cpu: float) -> Result:
        latency = self._latencies.quantile
        wanted = None if self.plan.window else self.plan.rate * self.plan.duration
        result = Result(
            connections=len(self.plan.tokens),
            opened=self.opened,
            handshakes_per_second=handshakes,
            seconds=seconds,
            published=self._published,
            published_per_second=self._published / seconds,
            delivered=self._delivered,
            deliveries_per_second=delivered / seconds,
            expected=self._expected,
            lost=self._expected - self._delivered,
            latency_p50=latency(0.5),
            latency_p90=latency(0.9),
            latency_p99=latency(0.99),
            latency_max=latency(1),
            errors=dict(self._errors),
            refused=dict(self._refused),
            closes=dict(self._closes),
            client_cpu=cpu,
            notes=[],
        )
        return result._replace(notes=explain_result(result, wanted))


def interleave(rooms: Sequence[Sequence[Member]]) -> list[Member]:
    """Return the first member of each room, then the second of each, and so on."""
    longest = max(map(len, rooms), default=0)
    return [members[index] for index in range(longest) for members in rooms if index < len(members)]
