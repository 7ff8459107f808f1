"""What is measured: each scenario runs one system once, on nodes just started, and returns its figures by name.

``note`` among them says what else was seen: what was lost or closed, and who had no CPU left.
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

#: Bytes of content in a message, besides the mark of 31 that the load puts there.
PAD = 64

#: How long node C is watched, idle and then while A and B are busy, in seconds: its leases are renewed as often.
WATCHED = 10


class Bench(NamedTuple):
    """What all measurements share: ``folder`` has the load and its tokens; ``duration`` is in seconds."""

    folder: Path
    pins: Pins
    env: Mapping[str, str]
    duration: float
    window: int

    def cluster(self, system: System, count: int) -> contextlib.AbstractContextManager[Cluster]:
        """``count`` nodes of ``system``, just started."""
        return cluster(system, count, self.folder, self.pins, self.env)

    def load(self, system: System, room: str = "channel:%R", **options: Any) -> Load:
        """A load for ``system`` with the ``options`` of load.c."""
        return Load(self.folder, self.pins, system.protocol, room, pad=PAD, **options)


class Meter:
    """CPU of several processes from now on."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self._processes = processes
        self._begin = time.monotonic()
        self._before = self._used()

    def shares(self) -> dict[str, float]:
        """Each one's share of a CPU since the beginning; ``others`` are what else this machine did."""
        seconds, used = time.monotonic() - self._begin, self._used()
        shares = {name: (used[name] - self._before[name]) / seconds for name in used}
        whole = shares.pop("whole")
        return {**shares, "others": max(0.0, whole - sum(shares.values()))}

    def _used(self) -> dict[str, float]:
        return {name: process.cpu() for name, process in self._processes.items()} | {"whole": machine_cpu()}


def _percent(shares: Mapping[str, float]) -> str:
    return "CPU " + " ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _seen(report: Mapping[str, Any], used: str) -> str:
    """The end of a note: what should not have happened, and the CPUs."""
    faults = [f"{name} {report[name]}" for name in ("lost", "late", "doubled") if report[name]]
    faults += [f"closed {code}: {count}" for code, count in report["closes"].items()]
    return "; ".join([*faults, used])


def _exchange(bench: Bench, system: System, *, rooms: int, per_room: int, **options: Any) -> Result:
    """Publishers on A, members on B (on A as well if the system has no Redis); the load's report with a note."""
    with bench.cluster(system, 2 if system.redis else 1) as nodes:
        ports: dict[str, Any] = {"publishers": nodes.ports[0], "members": nodes.ports[-1]}
        with bench.load(system, rooms=rooms, per_room=per_room, duration=bench.duration, **ports, **options) as load:
            load.ready(rooms * (1 + per_room))
            meter = Meter(nodes.named(load))
            load.go()
            report = load.result()
            return report | {
                "rate": report["delivered"] / report["seconds"],
                "note": _seen(report, _percent(meter.shares())),
            }


def many_rooms(bench: Bench, system: System) -> Result:
    """100 rooms, each with a publisher on A and a member on B; by default 8 messages in flight in each."""
    return _timed(_exchange(bench, system, rooms=100, per_room=1, window=bench.window))


def many_rooms_by_one(bench: Bench, system: System) -> Result:
    """The same with 1 message in flight in each room, so that there is less to do in one go."""
    return _timed(_exchange(bench, system, rooms=100, per_room=1, window=1))


def _timed(report: Result) -> Result:
    return report | {"note": f"p50 {report['p50_ms']:.1f} ms; {report['note']}"}


def one_room(bench: Bench, system: System) -> Result:
    """One publisher on A, 1,000 members on B in its room; by default 8 messages in flight."""
    return _exchange(bench, system, rooms=1, per_room=1000, window=bench.window)


def latency(bench: Bench, system: System) -> Result:
    """500 messages a second over 100 rooms, each with a publisher on A and 9 members on B."""
    return _exchange(bench, system, rooms=100, per_room=9, rate=500)


def bystander(bench: Bench, system: System) -> Result:
    """The load of many-rooms on A and B, while C has 1,000 members in 100 other rooms."""
    with bench.cluster(system, 3) as nodes, contextlib.ExitStack() as scope:
        a, b, c = nodes.ports
        others = bench.load(system, room="project:%R", rooms=100, per_room=9, publishers=c, members=c)
        scope.enter_context(others).ready(1000)
        ports: dict[str, Any] = {"publishers": a, "members": b}
        exchange = bench.load(system, rooms=100, per_room=1, window=bench.window, duration=WATCHED - 1, **ports)
        scope.enter_context(exchange).ready(200)
        meter = Meter({"C": nodes.nodes[2]})
        time.sleep(WATCHED)
        idle = meter.shares()["C"]
        meter = Meter(nodes.named(exchange))
        exchange.go()
        report, shares = exchange.result(), meter.shares()
    if not (rate := report["delivered"] / report["seconds"]):
        raise Failed("no message went from A to B")
    note = f"{rate:,.0f} messages/s pass by; {_seen(report, _percent(shares))}"
    busy = shares["C"]
    return {"cost": (busy - idle) / rate * 1e6, "idle": idle * 1e3, "busy": busy * 1e3, "note": note, "report": report}


def crash(bench: Bench, system: System) -> Result:
    """5,000 members on A in 100 rooms, 200 messages a second from B; A is killed, all go to B with their last id."""
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
    seen = f"{report['recovered']} recovered, {report['not_recovered']} not, {report['away']} still away, "
    return {
        "back": report["last_back"] - killed if back else math.inf,
        "lost": report["lost"],
        "doubled": report["doubled"],
        "note": f"{seen}{report['retries']} retries; {used}",
    }


def memory(bench: Bench, system: System) -> Result:
    """10,000 connections to one node, joined to 1,000 rooms, besides 5,000 that it has already."""
    with bench.cluster(system, 1) as nodes, contextlib.ExitStack() as scope:
        before = _memory_with(5_000, nodes, bench.load(system, **_all_on(nodes, 500)), scope)
        more = bench.load(system, room="project:%R", first=5_000, **_all_on(nodes, 1_000))
        after = _memory_with(10_000, nodes, more, scope)
    note = f"{before / 1024:.1f} MiB with 5,000, {after / 1024:.1f} MiB with 15,000"
    return {"size": (after - before) / 10_000, "note": note}


def _all_on(nodes: Cluster, rooms: int) -> dict[str, Any]:
    return {"rooms": rooms, "per_room": 9, "publishers": nodes.ports[0], "members": nodes.ports[0]}


def _memory_with(count: int, nodes: Cluster, load: Load, scope: contextlib.ExitStack) -> int:
    """The node's KiB once the ``count`` connections of ``load`` have joined and it has come to rest."""
    scope.enter_context(load).ready(count)
    time.sleep(2)
    return nodes.nodes[0].pss()
