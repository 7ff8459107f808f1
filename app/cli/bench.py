"""``roomcast bench``: opens connections to a server, publishes through some of them, and measures what arrives.

A message carries the time at which it was sent, on this machine's monotonic clock; whichever connection receives it
reads its latency from that. Everything here runs on one core, so that ``Result.client_cpu`` near 1 means that the
client, not the server, set the pace.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import orjson

from ..errors import RoomcastError
from .bench_results import Latencies, Result
from .websocket_client import End, Target, Unreachable, WebSocketClient

#: How long without a single arrival the end of a run waits for what is still under way, in seconds.
SETTLE: Final = 2.0
#: How long a connection may take to have joined its room, in seconds, before it counts as failed.
JOIN_TIMEOUT: Final = 30.0
#: In this part of a measurement's time on a core the client is taken for the bottleneck.
BUSY: Final = 0.9

_MARK: Final = b'"content":"@'
_DIGITS: Final = 20


class Plan(NamedTuple):
    """What to do: ``rate`` messages a second in all, or if ``window`` is given so many in flight per publisher.

    ``tokens`` has one for each connection. ``rooms`` are names; connections are dealt out over them in turn, and so are
    publishers. ``ramp`` handshakes are in flight at most. ``size`` is the length of a message's content.
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
    """One connection of a bench."""

    __slots__ = ("_bench", "ready", "room", "welcomed")

    def __init__(self, bench: Bench, token: str, room: str) -> None:
        super().__init__(bench.plan.target, token)
        self._bench = bench
        self.room = room
        self.welcomed = False
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_open(self) -> None:
        """Join the room. A server that refuses a connection opens it all the same, and closes it with the reason."""
        self.send(orjson.dumps({"type": "join_room", "room": self.room}))

    def on_text(self, payload: bytes) -> None:
        """Count a delivery, or see what else it is."""
        at = payload.find(_MARK)
        if at >= 0:
            self._bench.delivered(self, payload, at + len(_MARK))
        elif payload.startswith(b'{"type":"joined_room"') and not self.ready.done():
            self.ready.set_result(True)
        elif payload.startswith(b'{"type":"connected"'):
            self.welcomed = True
            self._bench.opened += 1
        elif payload.startswith(b'{"type":"error"'):
            self._bench.refused(self, payload)

    def on_end(self, end: End) -> None:
        """Count the end, unless the bench is over."""
        self._bench.ended(self, end)
        if not self.ready.done():
            self.ready.set_result(False)


class Bench:
    """Carries out ``plan``. ``progress`` is told every second what is going on."""

    def __init__(self, plan: Plan, progress: Callable[[str], None]) -> None:
        self.plan: Final = plan
        self.opened = 0
        self._progress = progress
        self._loop: Final = asyncio.get_running_loop()
        self._members: Final[dict[str, list[Member]]] = {room: [] for room in plan.rooms}
        self._publishers: list[Member] = []
        self._numbers: dict[Member, int] = {}
        self._latencies: Final = Latencies()
        self._errors: Final[Counter[str]] = Counter()
        self._refused: Final[Counter[str]] = Counter()
        self._closes: Final[Counter[str]] = Counter()
        self._publishing = False
        self._over = False
        self._published = 0
        self._expected = 0
        self._delivered = 0
        self._padding = "x" * max(plan.size - _DIGITS - 10, 0)

    async def run(self) -> Result:
        """Connect, publish, wait for the rest and hang up. Raises ``RoomcastError`` if not one connection joined."""
        reporter = self._loop.create_task(self._report())
        try:
            rate = await self._connect_all()
            cpu, begun = time.process_time(), time.monotonic()
            await self._publish_all()
            seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
            delivered = self._delivered
            await self._settle()
        finally:
            reporter.cancel()
            self._hang_up()
        return self._result(rate, seconds, delivered, cpu / seconds)

    # Connecting.

    async def _connect_all(self) -> float:
        """Connect and join, a bounded number at a time; return the handshakes a second."""
        waiting = deque(enumerate(self.plan.tokens))
        begun = time.monotonic()

        async def worker() -> None:
            while waiting:
                number, token = waiting.popleft()
                await self._connect(Member(self, token, self.plan.rooms[number % len(self.plan.rooms)]))

        await asyncio.gather(*(worker() for _ in range(self.plan.ramp)))
        seconds = time.monotonic() - begun
        joined = [member for members in zip_rooms(list(self._members.values())) for member in members]
        if not joined:
            raise RoomcastError(f"Not one connection could join its room ({self._troubles()}).")
        self._publishers = joined[: self.plan.publishers]
        self._numbers = {member: number for number, member in enumerate(self._publishers)}
        return self.opened / seconds

    async def _connect(self, member: Member) -> None:
        try:
            await member.connect()
            async with asyncio.timeout(JOIN_TIMEOUT):
                joined = await member.ready
        except Unreachable:
            if not self.opened:
                raise
            self._refused["unreachable"] += 1
        except TimeoutError:
            self._closes["no answer"] += 1
            member.abort()
        else:
            if joined:
                self._members[member.room].append(member)

    # Publishing.

    async def _publish_all(self) -> None:
        """Publish for the plan's duration."""
        self._publishing = True
        if self.plan.window:
            for publisher in self._publishers:
                for _ in range(self.plan.window):
                    self._publish(publisher)
            await asyncio.sleep(self.plan.duration)
        else:
            await self._publish_at_rate()
        self._publishing = False

    async def _publish_at_rate(self) -> None:
        """Publish what is due, over and over; after a stall what was missed follows at once."""
        plan, begun, number = self.plan, time.monotonic(), 0
        total = round(plan.rate * plan.duration)
        while (now := time.monotonic() - begun) < plan.duration or number < total:
            if now > plan.duration * 1.5:
                return
            due = min(int(now * plan.rate) + 1, total)
            while number < due:
                self._publish(self._publishers[number % len(self._publishers)])
                number += 1
            next_one = number / plan.rate if number < total else plan.duration
            await asyncio.sleep(max(next_one - (time.monotonic() - begun), 0))

    def _publish(self, publisher: Member) -> None:
        if not publisher.is_open:
            return
        content = f"@{time.monotonic_ns():0{_DIGITS}d}{self._numbers[publisher]:08d} {self._padding}"
        command = {"type": "send_message", "room": publisher.room, "data": {"content": content}}
        self._published += 1
        self._expected += len(self._members[publisher.room])
        publisher.send(orjson.dumps(command))

    def delivered(self, member: Member, payload: bytes, at: int) -> None:
        """Count a message that has come to ``member``; if it is its own, send the next one of its window."""
        self._delivered += 1
        self._latencies.add(time.monotonic_ns() - int(payload[at : at + _DIGITS]))
        if self.plan.window and self._publishing:
            own = self._numbers.get(member)
            if own is not None and own == int(payload[at + _DIGITS : at + _DIGITS + 8]):
                self._publish(member)

    def refused(self, member: Member, payload: bytes) -> None:
        """Count an error frame; what was refused will not be delivered."""
        data = orjson.loads(payload)["data"]
        self._errors[str(data.get("code"))] += 1
        if not member.ready.done():
            member.ready.set_result(False)
        elif member in self._numbers:
            self._published -= 1
            self._expected -= len(self._members[member.room])
            if self.plan.window and self._publishing:
                self._loop.call_later(0.1, self._publish, member)

    def ended(self, member: Member, end: End) -> None:
        """Count how a connection ended, or was refused; what is published from now on is not expected there."""
        if self._over:
            return
        (self._closes if member.welcomed else self._refused)[str(end)] += 1
        if member in self._members[member.room]:
            self._members[member.room].remove(member)

    async def _settle(self) -> None:
        """Wait until everything has arrived, or nothing arrives any more."""
        seen, since = self._delivered, time.monotonic()
        while self._delivered < self._expected and time.monotonic() - since < SETTLE:
            await asyncio.sleep(0.02)
            if self._delivered != seen:
                seen, since = self._delivered, time.monotonic()

    def _hang_up(self) -> None:
        self._over = True
        for members in self._members.values():
            for member in members:
                member.close()

    # Saying so.

    async def _report(self) -> None:
        begun, before = time.monotonic(), 0
        while True:
            await asyncio.sleep(1)
            if self._publishing:
                arrived, before = self._delivered - before, self._delivered
                self._progress(
                    f"{time.monotonic() - begun:4.0f} s: {arrived:,} deliveries/s, {self._published:,} published"
                )
            else:
                joined = sum(map(len, self._members.values()))
                self._progress(
                    f"{time.monotonic() - begun:4.0f} s: {joined:,} of {len(self.plan.tokens):,} connections"
                )

    def _troubles(self) -> str:
        troubles = self._refused + self._closes + self._errors
        return ", ".join(f"{number} x {what}" for what, number in troubles.most_common())

    def _result(self, handshakes: float, seconds: float, delivered: int, cpu: float) -> Result:
        lost = self._expected - self._delivered
        latency = self._latencies.milliseconds
        return Result(
            len(self.plan.tokens),
            self.opened,
            handshakes,
            seconds,
            self._published,
            self._published / seconds,
            self._delivered,
            delivered / seconds,
            self._expected,
            lost,
            latency(0.5),
            latency(0.9),
            latency(0.99),
            latency(1),
            dict(self._errors),
            dict(self._refused),
            dict(self._closes),
            cpu,
            self._notes(lost, cpu, seconds),
        )

    def _notes(self, lost: int, cpu: float, seconds: float) -> list[str]:
        """Return what the numbers do not say by themselves."""
        notes = []
        if cpu > BUSY:
            notes.append(
                f"This client used {cpu:.0%} of a core: it, not the server, is likely the bottleneck, and the "
                "server can do more than this. Run several benches at once, from other machines, and add up."
            )
        wanted = self.plan.rate * self.plan.duration
        if not self.plan.window and self._published < 0.95 * wanted and not self._errors:
            notes.append(f"Only {self._published:,} of {wanted:,.0f} messages were sent: the client fell behind.")
        if self._errors["rate_limited"]:
            notes.append(
                "Publishers met the server's limit of messages a second (rate_limited): set WS_MESSAGE_RATE=0 there, "
                "or spread the load with more --publishers."
            )
        if lost and self._closes:
            notes.append("Connections ended during the run; what was under way to them counts as lost.")
        return notes


def zip_rooms(rooms: Sequence[list[Member]]) -> list[list[Member]]:
    """Return the first member of each room, then the second of each, and so on: publishers in as many as there are."""
    longest = max(map(len, rooms), default=0)
    return [[members[place] for members in rooms if place < len(members)] for place in range(longest)]
