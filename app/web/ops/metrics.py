"""``GET /metrics`` for Prometheus: this node's counters, read when somebody asks. No key, no user's name, no room.

Nothing is counted here. The gateway and the hub count in plain integers on their way, and this gives them names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ...errors import ERROR_CODES
from ...gateway.counters import CLIENT_ENDS, OTHER_END, PLUGIN_CODE, SERVER_ENDS
from ...gateway.delivery import DELIVERY_BOUNDS, Delivery
from ...gateway.gateway import Gateway
from ..app_keys import GATEWAY
from .worker_metrics import PEERS, Families, join

VERSION: Final = version("roomcast")

_PROCESS: Final = CollectorRegistry()
for _collector in (ProcessCollector, PlatformCollector, GCCollector):
    _collector(registry=_PROCESS)


class GatewayCollector(Collector):
    """What one gateway has counted, and what it holds now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Final = gateway

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; costs 0.1 us for each room with members."""
        gateway, hub, counters = self._gateway, self._gateway.delivery, self._gateway.counters
        yield InfoMetricFamily("roomcast", "The version that runs.", {"version": VERSION})
        yield _gauge("connections", "WebSockets open on this node, those being closed included.", _connections(gateway))
        yield _gauge("users", "Users with a connection on this node.", len(hub.personal))
        yield _gauge("rooms", "Rooms with members on this node; users' own rooms are not counted.", len(hub.rooms))
        members = sum(len(room.members) for room in hub.rooms.values())
        yield _gauge("members", "Memberships on this node: a connection in three rooms counts three times.", members)
        yield _gauge("draining", "1 while this node sends its clients away to stop, else 0.", int(gateway.is_draining))
        yield _counter(
            "messages_received",
            "Messages taken from clients, refused ones included.",
            counters.messages_received,
        )
        yield _counter("events", "Events that came from the broker for rooms with members here.", counters.events)
        yield _counter(
            "http_events", "Events published on this node through POST /api/v1/events.", counters.http_events
        )
        yield _counter(
            "deliveries",
            "Events written to members, one for each event and member; replies are not counted.",
            sum(hub.delivery_counts) + hub.personal_deliveries,
        )
        yield _delivery(hub)
        yield _errors(gateway)
        yield _ends(gateway)
        for count in gateway.broker.metrics():
            yield (_counter if count.is_counter else _gauge)(count.name, count.meaning, count.value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"roomcast_{name}", help, value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"roomcast_{name}", help, value)


def _connections(gateway: Gateway) -> int:
    return len(gateway.keepalive.connections)


def _delivery(hub: Delivery) -> Metric:
    """The histogram of delivery times; Prometheus wants each bucket to hold the ones below it, too."""
    bounds = [*map(str, DELIVERY_BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(hub.delivery_counts), strict=True))
    help = "Seconds from an event's arrival on this node to its being written to a member of its room."
    return HistogramMetricFamily("roomcast_delivery_seconds", help, buckets=buckets, sum_value=hub.delivery_seconds)


def _errors(gateway: Gateway) -> Metric:
    """Error frames by code. Each code is there from the start, or a rate would miss the first of its kind."""
    help = "Error frames sent to clients, by data.code; the codes of plugins are one."
    family = CounterMetricFamily("roomcast_errors", help, labels=["code"])
    for code in (*ERROR_CODES, PLUGIN_CODE):
        family.add_metric([code], gateway.counters.errors[code])
    return family


def _ends(gateway: Gateway) -> Metric:
    """Ends of connections. Of what clients say as they close, only usual codes are told apart: it could be anything."""
    help = "Connections that ended or were refused, by close code and reason; 1006 without a close frame."
    family = CounterMetricFamily("roomcast_connection_ends", help, labels=["code", "reason"])
    ends = {*(end for end in SERVER_ENDS if end.reason), *CLIENT_ENDS.values(), OTHER_END}
    for end in sorted(ends):
        family.add_metric([str(end.code) if end.code else "other", end.reason], gateway.counters.ends[end])
    return family


async def collect(gateway: Gateway) -> list[Metric]:
    """Return the metrics of ``gateway`` and of this process."""
    # In a thread: to count the open files, /proc/self/fd is read, which takes 3 us for each connection.
    process = await asyncio.to_thread(lambda: list(_PROCESS.collect()))
    return [*GatewayCollector(gateway).collect(), *process]


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:  # prometheus-client compares whatever version is asked for with numbers
        return choose_encoder("")


async def metrics(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /metrics`` in the format that the client asks for; if this is one of several workers, for all."""
    if (peers := request.app.get(PEERS)) is None:
        families = await collect(request.app[GATEWAY])
    else:
        own, others = await asyncio.gather(collect(request.app[GATEWAY]), peers.gather())
        families = await asyncio.to_thread(join, own, peers, others)
    encode, content_type = _encoder(request.headers.get("Accept", ""))
    headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
    return web.Response(body=await asyncio.to_thread(encode, Families(families)), headers=headers)
