"""The metrics of several workers of one server, merged by the worker that answers the request.

Each sample gets the label ``worker`` with its worker's number. The samples are not added up, because the counters of a
restarted worker begin at 0: Prometheus detects such a reset only in the series of one worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiohttp import web
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL: Final = "worker"


class Peers(NamedTuple):
    """One worker's view of the others: its ``number``, the ``total`` of workers, and how to get the others' metrics.

    ``gather`` returns the encoded metrics by worker. Workers that do not answer in time are missing or empty.
    """

    number: int
    total: int
    gather: Callable[[], Awaitable[Mapping[int, str]]]


#: Missing if one process is the whole server.
PEERS: Final = web.AppKey("peers", Peers)


class Families(Collector):
    """Passes collected metrics to functions of prometheus-client that take a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: Final = families

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._families


def encode_metrics(families: Iterable[Metric]) -> bytes:
    """Return ``families`` as OpenMetrics for another worker. Prometheus' older format would lose types."""
    text: bytes = generate_latest(Families(families))  # type: ignore[no-untyped-call]
    return text


def merge_workers(own: Sequence[Metric], peers: Peers, others: Mapping[int, str]) -> list[Metric]:
    """Return the metrics of all workers, each family once, and the number of workers that are missing.

    This takes 1.5 ms for each worker.
    """
    decoded = {number: _decode(text) for number, text in others.items()}
    answers = {number: families for number, families in decoded.items() if families} | {peers.number: own}
    help = "Workers that did not answer in time, so that their metrics are missing in this response."
    merged: dict[str, Metric] = {"": GaugeMetricFamily("roomcast_workers_silent", help, peers.total - len(answers))}
    for number, families in sorted(answers.items()):
        for one in families:
            family = merged.setdefault(one.name, Metric(one.name, one.documentation, one.type, one.unit))
            family.samples += [sample._replace(labels=sample.labels | {LABEL: str(number)}) for sample in one.samples]
    return [*merged.values()]


def _decode(text: str) -> list[Metric]:
    """Return the metrics in ``text``; an empty list if it is not OpenMetrics."""
    try:
        return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    except ValueError:
        return []
