"""``GET /metrics`` for Prometheus: the counters of this node, or of all workers of one server.

The gateway counts in plain integers. This module reads them and gives them names.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
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

from ... import output
from ...errors import ERROR_CODES
from ...gateway.counters import CLIENT_ENDS, OTHER_END, PLUGIN_CODE, SERVER_ENDS, Counters
from ...gateway.delivery import DELIVERY_BOUNDS, Delivery
from ...gateway.gateway import Gateway
from ..app_state import GATEWAY
from ..connection_limit import REASONS
from .plugin_metrics import plugin_metrics
from .room_metrics import room_metrics
from .worker_metrics import PEERS, Families, Peers, merge_workers

VERSION: Final = version("roomcast")

#: How long a result is shared, in seconds.
MAX_AGE: Final = 1.0
_OPENMETRICS: Final = "application/openmetrics-text"
#: The part of Accept that is read, in characters. Prometheus sends 250. A header of 8,000 commas takes 1 ms.
_MAX_ACCEPT: Final = 512

_PROCESS: Final = CollectorRegistry()
for _collector in (ProcessCollector, PlatformCollector, GCCollector):
    _collector(registry=_PROCESS)


class GatewayCollector(Collector):
    """The counters and the current sizes of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Final = gateway

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. This takes 0.2 µs for each room with members."""
        gateway, delivery, counters = self._gateway, self._gateway.delivery, self._gateway.counters
        yield InfoMetricFamily("roomcast", "The version of roomcast.", {"version": VERSION})
        connections = len(gateway.keepalive.connections)
        yield _gauge("connections", "Open WebSockets on this node, closing ones included.", connections)
        yield _gauge("max_connections", "The number of WebSockets that this node admits.", counters.max_connections)
        yield _closed_sockets(counters.closed_sockets)
        yield _counter(
            "descriptor_shortages",
            "How often no file descriptor was left, in checks that are made every second.",
            counters.descriptor_shortages,
        )
        yield _gauge("users", "Users with a connection on this node.", len(delivery.personal))
        yield _gauge(
            "rooms", "Rooms with members on this node, without the users' personal rooms.", len(delivery.rooms)
        )
        members = sum(len(room.members) for room in delivery.rooms.values())
        yield _gauge("members", "Memberships on this node: a connection in three rooms counts three times.", members)
        yield _gauge(
            "draining", "1 while this node is about to stop or drains its clients, else 0.", int(gateway.is_stopping)
        )
        yield _counter(
            "messages_received",
            "Messages received from clients, refused ones included.",
            counters.messages_received,
        )
        yield _counter(
            "events", "Events received from the broker for rooms with members on this node.", counters.events
        )
        yield _counter(
            "http_events", "Events published on this node through POST /api/v1/events.", counters.http_events
        )
        yield _counter(
            "deliveries",
            "Events written to members: one for each event and member, without replies.",
            sum(delivery.delivery_counts) + delivery.personal_deliveries,
        )
        yield _live_dropped(counters)
        yield _counter(
            "log_lines_dropped",
            "Lines of the log and of standard output that could not be written.",
            output.dropped_lines(),
        )
        yield _gauge(
            "loop_lag_seconds",
            "The longest time that the event loop was blocked or late in the last 30 to 60 s.",
            gateway.watchdog.longest_delay,
        )
        yield _counter(
            "loop_stalls", "How often the event loop was blocked for half a second or more.", gateway.watchdog.stalls
        )
        yield from room_metrics(delivery)
        yield from plugin_metrics(gateway.plugin_times)
        yield _delivery_seconds(delivery)
        yield _errors(gateway)
        yield _connection_ends(gateway)
        yield _access_failures(gateway)
        yield _gauge(
            "access_checks",
            "Checks with the URL in ROOM_ACCESS that run or wait for their turn.",
            gateway.room_access.unfinished_checks,
        )
        if (expires := counters.certificate_expires) is not None:
            yield _gauge("certificate_expires", "When the TLS certificate in use expires, as a Unix time.", expires)
        for count in gateway.broker.metrics():
            yield (_counter if count.is_counter else _gauge)(count.name, count.meaning, count.value)
        for plugin, read in gateway.metric_sources:
            for count in read():
                yield (_counter if count.is_counter else _gauge)(f"{plugin}_{count.name}", count.meaning, count.value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"roomcast_{name}", help, value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"roomcast_{name}", help, value)


def _delivery_seconds(delivery: Delivery) -> Metric:
    """Return the histogram of delivery times. In Prometheus each bucket includes the ones below it."""
    bounds = [*map(str, DELIVERY_BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(delivery.delivery_counts), strict=True))
    help = "Seconds from an event's arrival on this node until it is written to a member of its room."
    return HistogramMetricFamily(
        "roomcast_delivery_seconds", help, buckets=buckets, sum_value=delivery.delivery_seconds
    )


def _errors(gateway: Gateway) -> Metric:
    """Return the error frames by code. Each code begins with 0, so that rates include its first error."""
    help = "Error frames sent to clients, by data.code. All codes of plugins are counted as plugin."
    family = CounterMetricFamily("roomcast_errors", help, labels=["code"])
    for code in (*ERROR_CODES, PLUGIN_CODE):
        family.add_metric([code], gateway.counters.errors[code])
    return family


def _connection_ends(gateway: Gateway) -> Metric:
    """Return the ends of connections. Clients may close with any code, so only usual codes have labels of their own."""
    help = "Connections that ended or were refused, by close code and reason; 1006 means without a close frame."
    family = CounterMetricFamily("roomcast_connection_ends", help, labels=["code", "reason"])
    ends = {*(end for end in SERVER_ENDS if end.reason), *CLIENT_ENDS.values(), OTHER_END}
    for end in sorted(ends):
        family.add_metric([str(end.code) if end.code else "other", end.reason], gateway.counters.ends[end])
    return family


def _closed_sockets(closed: Mapping[str, int]) -> Metric:
    """Return the closed sockets by reason. Each reason begins with 0, so that rates include its first socket."""
    help = "Sockets of clients that were closed because of a limit."
    family = CounterMetricFamily("roomcast_closed_sockets", help, labels=["reason"])
    for reason in REASONS:
        family.add_metric([reason], closed.get(reason, 0))
    return family


def _live_dropped(counters: Counters) -> Metric:
    """Return the deliveries of live events that were left out."""
    help = "Deliveries of live events that were left out: too much waited (flood), or the client reads too slowly."
    family = CounterMetricFamily("roomcast_live_dropped", help, labels=["reason"])
    family.add_metric(["flood"], counters.live_overflows)
    family.add_metric(["slow_reader"], counters.live_skips)
    return family


def _access_failures(gateway: Gateway) -> Metric:
    """Return the access checks without a decision. Both kinds begin with 0, so that rates include the first failure."""
    help = "Access checks that failed: those of the URL in ROOM_ACCESS (url), and rules of plugins (rule)."
    family = CounterMetricFamily("roomcast_access_failures", help, labels=["check"])
    family.add_metric(["url"], gateway.room_access.failed_checks)
    family.add_metric(["rule"], gateway.counters.failed_rules)
    return family


async def collect(gateway: Gateway) -> list[Metric]:
    """Return the metrics of ``gateway`` and of this process."""
    # In a thread, because counting the open files in /proc/self/fd takes 3 µs for each connection.
    process = await asyncio.to_thread(lambda: list(_PROCESS.collect()))
    return [*GatewayCollector(gateway).collect(), *process]


class Scrape:
    """The metrics in one format. They are collected at most once in ``MAX_AGE`` seconds, and shared by all requests.

    Collecting takes a millisecond, and more with many rooms or workers. Requests need no key.
    """

    def __init__(
        self, collect: Callable[[], Awaitable[Iterable[Metric]]], encode: Callable[[Iterable[Metric]], bytes]
    ) -> None:
        self._collect: Final = collect
        self._encode: Final = encode
        self._lock: Final = asyncio.Lock()
        self._begun = -math.inf
        self._text = b""

    async def text(self) -> bytes:
        """Return the metrics."""
        async with self._lock:
            now = time.monotonic()
            if now - self._begun >= MAX_AGE:
                self._text = await asyncio.to_thread(self._encode, await self._collect())
                self._begun = now
            return self._text


#: The scrape and the content type of the text format (False) and of OpenMetrics (True).
SCRAPES: Final = web.AppKey("scrapes", dict[bool, tuple[Scrape, str]])


def add_routes(app: web.Application) -> None:
    """Add the route of the metrics."""
    gather = partial(_collect_all, app[GATEWAY], app.get(PEERS))
    app[SCRAPES] = {}
    for is_openmetrics, accept in ((False, "text/plain"), (True, _OPENMETRICS)):
        encode, content_type = choose_encoder(accept)
        app[SCRAPES][is_openmetrics] = (Scrape(gather, partial(_encode, encode)), content_type)
    app.router.add_get("/metrics", metrics)


def _encode(encode: Callable[[Collector], bytes], families: Iterable[Metric]) -> bytes:
    return encode(Families(families))


async def _collect_all(gateway: Gateway, peers: Peers | None) -> list[Metric]:
    """Return the metrics of this process, and those of the other workers."""
    if peers is None:
        return await collect(gateway)
    own, others = await asyncio.gather(collect(gateway), peers.gather())
    return await asyncio.to_thread(merge_workers, own, peers, others)


async def metrics(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /metrics`` in the format that the client asks for. One of several workers answers for all."""
    scrape, content_type = request.app[SCRAPES][_accepts_openmetrics(request.headers.get("Accept", ""))]
    headers = {"Content-Type": content_type, "Cache-Control": "no-store"}
    return web.Response(body=await scrape.text(), headers=headers)


def _accepts_openmetrics(accept: str) -> bool:
    """Return True if ``accept`` asks for OpenMetrics. Otherwise the client gets the text format."""
    try:
        _, content_type = choose_encoder(accept[:_MAX_ACCEPT])
    except TypeError:  # prometheus-client 0.26 compares the requested version with numbers, even if it is not one
        return False
    return content_type.startswith(_OPENMETRICS)
