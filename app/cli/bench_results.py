"""The results of ``roomcast bench``: the histogram of latencies, the numbers of a run, and the printed table."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

#: The precision of a latency in microseconds: its first bit and this many more are kept, so a bucket of the histogram
#: is less than 1 % wide.
_BITS: Final = 7
#: A client that uses more than this part of a core is likely the bottleneck.
BUSY_CPU: Final = 0.9


class Latencies:
    """A histogram of latencies, in constant space."""

    def __init__(self) -> None:
        self._counts: Final[Counter[int]] = Counter()
        self._longest = 0

    def add(self, nanoseconds: int) -> None:
        """Count a latency."""
        value = nanoseconds // 1000
        shift = max(value.bit_length() - _BITS - 1, 0)
        self._counts[(shift << _BITS) + (value >> shift)] += 1
        if value > self._longest:
            self._longest = value

    def quantile(self, share: float) -> float:
        """Return the latency in milliseconds that the given share (0 to 1) of the latencies does not exceed.

        A share of 1 gives the longest latency. Without latencies the result is 0.
        """
        left = share * self._counts.total()
        for index in sorted(self._counts):
            left -= self._counts[index]
            if left <= 0 and share < 1:
                shift = max((index >> _BITS) - 1, 0)
                return min(((index - (shift << _BITS)) + 1 << shift) - 1, self._longest) / 1000
        return self._longest / 1000


class Result(NamedTuple):
    """The result of a run. The names of the fields are those of ``--json``. Latencies are in milliseconds.

    ``refused`` counts the connections that ended before a ``connected`` frame, ``closes`` those that ended after it.
    Both count by code and reason. ``client_cpu`` is the part of a core that the bench itself used.
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


def explain_result(result: Result, wanted: float | None) -> list[str]:
    """Return sentences that explain the numbers. ``wanted`` is the planned number of messages; None without a rate."""
    notes = []
    if result.client_cpu > BUSY_CPU:
        notes.append(
            f"This client used {result.client_cpu:.0%} of a core. It is likely the bottleneck, and the server can do "
            "more. Run several benches at the same time, on other machines, and add up their results."
        )
    if wanted is not None and result.published < 0.95 * wanted and not result.errors:
        notes.append(f"Only {result.published:,} of {wanted:,.0f} messages were sent: the client fell behind.")
    if "rate_limited" in result.errors:
        notes.append(
            "Publishers exceeded the server's limit of messages or bytes per second (rate_limited). Set "
            "WS_MESSAGE_RATE=0 and WS_BYTE_RATE=0 on the server, or use more --publishers."
        )
    if result.lost and result.closes:
        notes.append("Connections ended during the run. Messages in flight to them count as lost.")
    return notes


def table(result: Result) -> str:
    """Return ``result`` as text."""
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
