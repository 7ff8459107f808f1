"""The scenarios. Each runs one system once on new nodes, and returns its figures by name.

The figure ``note`` is a text with lost events, closed connections and the CPU use of each process.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from processes import Cluster, Failed, Load, Pins, Process, System, cluster, machine_cpu

Result = dict[str, Any]

#: Bytes of content in a message, besides the mark of 31 bytes that the load generator adds.
PAD = 64

#: How long the CPU of node C is measured, first idle and then with load on A and B, in seconds. It is the interval at
#: which leases are renewed.
OBSERVED = 10


class Bench(NamedTuple):
    """What all measurements share. ``folder`` contains the load generator and its tokens; ``duration`` is in s."""

    folder: Path
    pins: Pins
    env: Mapping[str, str]
    duration: float
    window: int

    def cluster(self, system: System, count: int) -> contextlib.AbstractContextManager[Cluster]:
        """Start ``count`` nodes of ``system``."""
        return cluster(system, count, self.folder, self.pins, self.env)

    def load(self, system: System, room: str = "channel:%R", **options: Any) -> Load:
        """Return a load generator for ``system``, with ``options`` of load.c."""
        return Load(self.folder, self.pins, system.protocol, room, pad=PAD, **options)


class Meter:
    """Measures the CPU use of several processes from now on."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self._processes = processes
        self._start = time.monotonic()
        self._before = self._used()

    def shares(self) -> dict[str, float]:
        """Return each process's share of a CPU since the start, and that of all ``others`` on this machine."""
        seconds, used = time.monotonic() - self._start, self._used()
        shares = {name: (used[name] - self._before[name]) / seconds for name in used}
        whole = shares.pop("whole")
        return {**shares, "others": max(0.0, whole - sum(shares.values()))}

    def _used(self) -> dict[str, float]:
        return {name: process.cpu() for name, process in self._processes.items()} | {"whole": machine_cpu()}


def _percent(shares: Mapping[str, float]) -> str:
    return "CPU " + " ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _summary(report: Mapping[str, Any], used: str) -> str:
    """Return the end of a note: faults, and the CPU use."""
    faults = [f"{name} {report[name]}" for name in ("lost", "late", "doubled") if report[name]]
    faults += [f"closed {code}: {count}" for code, count in report["closes"].items()]
    return "; ".join([*faults, used])


def _exchange(bench: Bench, system: System, *, rooms: int, per_room: int, **options: Any) -> Result:
    """Run publishers on A and members on B (on A without Redis); return the report of the load with a note."""
    with bench.cluster(system, 2 if system.redis else 1) as nodes:
        ports: dict[str, Any] = {"publishers": nodes.ports[0], "members": nodes.ports[-1]}
        with bench.load(system, rooms=rooms, per_room=per_room, duration=bench.duration, **ports, **options) as load:
            load.ready(rooms * (1 + per_room))
            meter = Meter(nodes.named(load))
            load.go()
            report = load.result()
            return report | {
                "rate": report["delivered"] / report["seconds"],
                "note": _summary(report, _percent(meter.shares())),
            }


def many_rooms(bench: Bench, system: System) -> Result:
    """100 rooms, each with a publisher on A and a member on B, and by default 8 messages in flight."""
    return _timed(_exchange(bench, system, rooms=100, per_room=1, window=bench.window))


def many_rooms_by_one(bench: Bench, system: System) -> Result:
    """The same with 1 message in flight in each room, so that there is less to batch."""
    return _timed(_exchange(bench, system, rooms=100, per_room=1, window=1))


def _timed(report: Result) -> Result:
    return report | {"note": f"p50 {report['p50_ms']:.1f} ms; {report['note']}"}


def one_room(bench: Bench, system: System) -> Result:
    """One publisher on A, 1,000 members on B in its room; by default 8 messages in flight."""
    return _exchange(bench, system, rooms=1, per_room=1000, window=bench.window)


def latency(bench: Bench, system: System) -> Result:
    """500 messages per second in 100 rooms, each with a publisher on A and 9 members on B."""
    return _exchange(bench, system, rooms=100, per_room=9, rate=500)


def typing(bench: Bench, system: System) -> Result:
    """10 messages per second in a room of 1,000: first alone, then while all members type."""
    quiet = _exchange(bench, system, rooms=1, per_room=1000, rate=10)
    with bench.cluster(system, 2 if system.redis else 1) as nodes:
        command = '{"type":"typing","room":"channel:%R"}'
        options: dict[str, Any] = {"chatter": command, "chatter_rate": 1000, "duration": 2 * bench.duration}
        ports: dict[str, Any] = {"publishers": nodes.ports[0], "members": nodes.ports[-1]}
        with bench.load(system, rooms=1, per_room=1000, rate=10, **ports, **options) as load:
            load.ready(1001)
            meter = Meter(nodes.named(load))
            load.go()
            time.sleep(bench.duration)
            before = nodes.nodes[-1].pss()
            report = load.result()
            after, used = nodes.nodes[-1].pss(), _percent(meter.shares())
    received = report["others"] / report["seconds"] / 1000
    note = f"{received:.0f} live events per member and second; {_summary(report, used)}"
    return {
        "quiet": quiet["p99_ms"],
        "typing": report["p99_ms"],
        "ratio": report["p99_ms"] / quiet["p99_ms"],
        "growth": after - before,
        "note": f"p50 {quiet['p50_ms']:.1f} and {report['p50_ms']:.1f} ms; {note}",
    }


def bystander(bench: Bench, system: System) -> Result:
    """The load of many-rooms on A and B, while C has 1,000 members in 100 other rooms."""
    with bench.cluster(system, 3) as nodes, contextlib.ExitStack() as scope:
        a, b, c = nodes.ports
        others = bench.load(system, room="project:%R", rooms=100, per_room=9, publishers=c, members=c)
        scope.enter_context(others).ready(1000)
        ports: dict[str, Any] = {"publishers": a, "members": b}
        exchange = bench.load(system, rooms=100, per_room=1, window=bench.window, duration=OBSERVED - 1, **ports)
        scope.enter_context(exchange).ready(200)
        meter = Meter({"C": nodes.nodes[2]})
        time.sleep(OBSERVED)
        idle = meter.shares()["C"]
        meter = Meter(nodes.named(exchange))
        exchange.go()
        report, shares = exchange.result(), meter.shares()
    if not (rate := report["delivered"] / report["seconds"]):
        raise Failed("no message went from A to B")
    note = f"{rate:,.0f} messages/s between A and B; {_summary(report, _percent(shares))}"
    busy = shares["C"]
    return {"cost": (busy - idle) / rate * 1e6, "idle": idle * 1e3, "busy": busy * 1e3, "note": note, "report": report}


def crash(bench: Bench, system: System) -> Result:
    """5,000 members on A, 200 messages per second from B; A is killed, and the members resume on B."""
    with bench.cluster(system, 2) as nodes:
        a, b = nodes.ports
        options: dict[str, Any] = {
            "publishers": b,
            "members": a,
            "return": b,
            "recovered": '"recovered":true',
            "rate": 200,
        }
        with bench.load(system, rooms=100, per_room=50, duration=2, **options) as load:
            load.ready(5100)
            load.go()
            time.sleep(2)
            left = {name: process for name, process in nodes.named(load).items() if name != "A"}
            meter, killed = Meter(left), time.monotonic()
            nodes.nodes[0].kill()
            line = load.line()
            back = line.startswith("BACK")
            used = _percent(meter.shares())
            report = load.result() if back else json.loads(line)
    resumed = f"{report['recovered']} recovered, {report['not_recovered']} not, {report['away']} still away, "
    return {
        "back": report["last_back"] - killed if back else math.inf,
        "lost": report["lost"],
        "doubled": report["doubled"],
        "note": f"{resumed}{report['retries']} retries; {used}",
    }


def memory(bench: Bench, system: System) -> Result:
    """10,000 connections join 1,000 rooms on one node that has 5,000 connections already."""
    with bench.cluster(system, 1) as nodes, contextlib.ExitStack() as scope:
        before = _memory_with(5_000, nodes, bench.load(system, **_all_on(nodes, 500)), scope)
        more = bench.load(system, room="project:%R", first=5_000, **_all_on(nodes, 1_000))
        after = _memory_with(10_000, nodes, more, scope)
    note = f"{before / 1024:.1f} MiB with 5,000, {after / 1024:.1f} MiB with 15,000"
    return {"size": (after - before) / 10_000, "note": note}


def _all_on(nodes: Cluster, rooms: int) -> dict[str, Any]:
    return {"rooms": rooms, "per_room": 9, "publishers": nodes.ports[0], "members": nodes.ports[0]}


def _memory_with(count: int, nodes: Cluster, load: Load, scope: contextlib.ExitStack) -> int:
    """Return the memory of the node in KiB, 2 s after the ``count`` connections of ``load`` have joined."""
    scope.enter_context(load).ready(count)
    time.sleep(2)
    return nodes.nodes[0].pss()
