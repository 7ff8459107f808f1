"""What ``roomcast bench`` measured: latencies, the numbers of a run, and how they are shown."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

#: Latencies are counted in classes of less than 1 % width: this many bits of their microseconds are kept.
_BITS: Final = 7


class Latencies:
    """Counts of latencies, in constant space."""

    def __init__(self) -> None:
        self._counts: Final[Counter[int]] = Counter()
        self._most = 0

    def add(self, nanoseconds: int) -> None:
        """Count one."""
        value = nanoseconds // 1000
        shift = max(value.bit_length() - _BITS - 1, 0)
        self._counts[(shift << _BITS) + (value >> shift)] += 1
        if value > self._most:
            self._most = value

    def milliseconds(self, share: float) -> float:
        """Return the latency that ``share`` (0 to 1) of all do not exceed; 0 if there are none, 1 gives the longest."""
        left = share * self._counts.total()
        for index in sorted(self._counts):
            left -= self._counts[index]
            if left <= 0 and share < 1:
                shift = max((index >> _BITS) - 1, 0)
                return min(((index - (shift << _BITS)) + 1 << shift) - 1, self._most) / 1000
        return self._most / 1000


class Result(NamedTuple):
    """What came of a plan; the fields' names are those of ``--json``. Latencies are in milliseconds.

    ``refused`` counts the connections that were never welcomed, ``closes`` those that ended later, by code and reason.
    """

    connections: int
    opened: int
    handshakes_per_second: float
    seconds: float
    published: int
    published_per_second: float
    delivered: int
    deliveries_per_second: float
    expected: int
    lost: int
    latency_p50: float
    latency_p90: float
    latency_p99: float
    latency_max: float
    errors: dict[str, int]
    refused: dict[str, int]
    closes: dict[str, int]
    client_cpu: float
    notes: list[str]


def table(result: Result) -> str:
    """Return ``result`` for eyes."""
    rows = [
        ("connections", f"{result.opened:,} of {result.connections:,} opened, {result.handshakes_per_second:,.0f}/s"),
        ("refused", _counts(result.refused)),
        ("published", f"{result.published:,} in {result.seconds:.1f} s, {result.published_per_second:,.0f}/s"),
        ("delivered", f"{result.delivered:,}, {result.deliveries_per_second:,.0f}/s"),
        ("lost", f"{result.lost:,} of {result.expected:,} expected"),
        (
            "latency",
            f"p50 {result.latency_p50:.2f} ms, p90 {result.latency_p90:.2f} ms, p99 {result.latency_p99:.2f} ms, "
            f"max {result.latency_max:.2f} ms",
        ),
        ("errors", _counts(result.errors)),
        ("closed", _counts(result.closes)),
        ("client CPU", f"{result.client_cpu:.0%} of a core"),
    ]
    lines = [f"{name:<12} {value}" for name, value in rows]
    return "\n".join([*lines, *(f"\n{note}" for note in result.notes)])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} x {what}" for what, number in counts.items()) or "none"
