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

from processes import Cluster, Load, Pins, Process, System, cluster

Result = dict[str, Any]

#: Bytes of content in a message, besides the mark of 31 that the load puts there.
PAD = 64

#: How long node C is watched, idle and then while A and B are busy, in seconds: its leases are renewed as often.
WATCHED = 10


class Bench(NamedTuple):
    """What all measurements share: a folder with the load and its tokens, CPUs, environment, seconds of a run."""

    folder: Path
    pins: Pins
    env: Mapping[str, str]
    duration: float

    def cluster(self, system: System, count: int) -> contextlib.AbstractContextManager[Cluster]:
        """``count`` nodes of ``system``, just started."""
        return cluster(system, count, self.folder, self.pins, self.env)

    def load(self, system: System, room: str = "channel:%R", **options: str | float) -> Load:
        """A load for ``system`` with the ``options`` of load.c."""
        return Load(self.folder, self.pins, system.protocol, room, pad=PAD, **options)


class Meter:
    """CPU of several processes from now on."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self._processes = processes
        self._begin = time.monotonic()
        self._before = {name: process.cpu() for name, process in processes.items()}

    def shares(self) -> dict[str, float]:
        """Each one's share of a CPU since the beginning; none of one that has ended."""
        seconds = time.monotonic() - self._begin
        return {
            name: (process.cpu() - self._before[name]) / seconds
            for name, process in self._processes.items()
            if process.child.poll() is None
        }

    def __str__(self) -> str:
        return "CPU " + " ".join(f"{name} {share:.0%}" for name, share in self.shares().items())


def _seen(report: Mapping[str, Any], used: str) -> str:
    """The end of a note: what should not have happened, and the CPUs."""
    faults = [f"{name} {report[name]}" for name in ("lost", "late", "doubled") if report[name]]
    faults += [f"closed {code}: {count}" for code, count in report["closes"].items()]
    return "; ".join([*faults, used])


def _exchange(bench: Bench, system: System, *, rooms: int, per_room: int, **options: str | float) -> Result:
    """Publishers on A, members on B (on A as well if the system has no Redis); the load's report with a note."""
    with bench.cluster(system, 2 if system.redis else 1) as nodes:
        ports = {"publishers": nodes.ports[0], "members": nodes.ports[-1]}
        with bench.load(system, rooms=rooms, per_room=per_room, duration=bench.duration, **ports, **options) as load:
            load.ready(rooms * (1 + per_room))
            meter = Meter(nodes.named(load))
            load.go()
            report = load.result()
            return report | {"rate": report["delivered"] / report["seconds"], "note": _seen(report, str(meter))}


def many_rooms(bench: Bench, system: System, window: int) -> Result:
    """100 rooms, each with a publisher on A and a member on B, with ``window`` messages in flight in each."""
    report = _exchange(bench, system, rooms=100, per_room=1, window=window)
    return report | {"note": f"p50 {report['p50_ms']:.1f} ms; {report['note']}"}


def one_room(bench: Bench, system: System) -> Result:
    """One publisher on A with 8 messages in flight, 1,000 members on B in its room."""
    return _exchange(bench, system, rooms=1, per_room=1000, window=8)


def latency(bench: Bench, system: System) -> Result:
    """500 messages a second over 100 rooms, each with a publisher on A and 9 members on B."""
    return _exchange(bench, system, rooms=100, per_room=9, rate=500)


def bystander(bench: Bench, system: System) -> Result:
    """The load of many_rooms on A and B, while C has 1,000 members in 100 other rooms."""
    with bench.cluster(system, 3) as nodes, contextlib.ExitStack() as scope:
        a, b, c = nodes.ports
        others = bench.load(system, room="project:%R", rooms=100, per_room=9, publishers=c, members=c)
        scope.enter_context(others).ready(1000)
        busy = bench.load(
            *(system,), rooms=100, per_room=1, window=8, publishers=a, members=b, warmup=1, duration=WATCHED - 1
        )
        scope.enter_context(busy).ready(200)
        idle = Meter({"C": nodes.nodes[2]})
        time.sleep(WATCHED)
        before = idle.shares()["C"]
        meter = Meter(nodes.named(busy))
        busy.go()
        report = busy.result()
        during = meter.shares()["C"]
    rate = report["delivered"] / report["seconds"]
    figures = {"cost": (during - before) / rate * 1e6, "idle": before * 1e3, "busy": during * 1e3}
    return {**figures, "note": f"{rate:.0f} messages/s pass by; {_seen(report, str(meter))}"}


def crash(bench: Bench, system: System) -> Result:
    """5,000 members on A in 100 rooms, 200 messages a second from B; A is killed, all go to B with their last id."""
    with bench.cluster(system, 2) as nodes:
        a, b = nodes.ports
        options = {"publishers": b, "members": a, "return": b, "recovered": '"recovered":true', "rate": 200}
        with bench.load(system, rooms=100, per_room=50, warmup=1, duration=2, **options) as load:
            load.ready(5100)
            load.go()
            time.sleep(2)
            meter, killed = Meter({**nodes.named(load)}), time.monotonic()
            nodes.nodes[0].kill()
            line = load.line()
            back = line.startswith("BACK")
            used = str(meter)
            report = load.result() if back else json.loads(line)
    seen = f"{report['recovered']} recovered, {report['not_recovered']} not, {report['away']} still away, "
    return {
        "back": report["last_back"] - killed if back else math.inf,
        "lost": report["lost"],
        "doubled": report["doubled"],
        "note": f"{seen}{report['retries']} retries; {used}",
    }


def memory(bench: Bench, system: System) -> Result:
    """10,000 connections to one node, joined to 1,000 rooms."""
    with bench.cluster(system, 1) as nodes:
        node, port = nodes.nodes[0], nodes.ports[0]
        time.sleep(1)
        before = node.pss()
        with bench.load(system, rooms=1000, per_room=9, publishers=port, members=port) as load:
            load.ready(10_000)
            time.sleep(2)
            after = node.pss()
    return {"size": (after - before) / 10_000, "note": f"{before / 1024:.1f} MiB without, {after / 1024:.1f} MiB with"}
