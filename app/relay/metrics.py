"""The metrics of a relay."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class RelayMetrics:
    """The metrics of one relay, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.published = Counter("roomcast_relay_published", "Events that roomcast has confirmed.", registry=registry)
        self.failed = Counter("roomcast_relay_failed", "Events that were set aside.", ["code"], registry=registry)
        self.retries = Counter("roomcast_relay_retries", "Requests that were sent again.", registry=registry)
        self.possible_duplicates = Counter(
            "roomcast_relay_possible_duplicates",
            "Events that were sent again after the lifetime of their keys, without knowing if they were published.",
            registry=registry,
        )
        self.waiting = Gauge("roomcast_relay_waiting", "Events in the relay's partitions.", registry=registry)
        self.lag = Gauge("roomcast_relay_lag_seconds", "Age of the oldest of these events.", registry=registry)
        self.partitions = Gauge("roomcast_relay_partitions", "Partitions that the relay has.", registry=registry)
        self.connected = Gauge("roomcast_relay_connected", "1 if the relay can read its source.", registry=registry)
