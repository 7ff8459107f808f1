"""What ``roomcast bench`` measures: latencies, the numbers of a run, and how they are printed."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

#: A latency is counted in a class of less than 1 % width: this many bits after the first of its microseconds are kept.
_BITS: Final = 7
#: If the client uses more than this part of a core, it is likely the bottleneck.
BUSY: Final = 0.9


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

    def milliseconds(self, share: float) -> float:
        """Return the latency that ``share`` (0 to 1) of all do not exceed. 1 gives the longest; 0 if there are none."""
        left = share * self._counts.total()
        for index in sorted(self._counts):
            left -= self._counts[index]
            if left <= 0 and share < 1:
                shift = max((index >> _BITS) - 1, 0)
                return min(((index - (shift << _BITS)) + 1 << shift) - 1, self._longest) / 1000
        return self._longest / 1000


class Result(NamedTuple):
    """The result of a run. The names of the fields are those of ``--json``. Latencies are in milliseconds.

    ``refused`` counts the connections that did not get a ``connected``, ``closes`` those that ended later, each by
    code and reason. ``client_cpu`` is the part of a core that the bench itself used.
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
    """Return sentences that explain the numbers. ``wanted`` is the number of messages to send, if that was fixed."""
    notes = []
    if result.client_cpu > BUSY:
        notes.append(
            f"This client used {result.client_cpu:.0%} of a core. It is likely the bottleneck, and the server can do "
            "more. Run several benches at the same time, on other machines, and add up their results."
        )
    if wanted is not None and result.published < 0.95 * wanted and not result.errors:
        notes.append(f"Only {result.published:,} of {wanted:,.0f} messages were sent: the client fell behind.")
    if "rate_limited" in result.errors:
        notes.append(
            "Publishers exceeded the server's limit of messages per second (rate_limited). Set WS_MESSAGE_RATE=0 on "
            "the server, or use more --publishers."
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
