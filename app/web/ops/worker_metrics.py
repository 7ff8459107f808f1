"""``GET /metrics`` of several workers, which are one server: whichever is asked answers for all.

Each worker's samples get a label, ``worker``, with its number. They are not added up here: counters of one that was
started again begin at 0, and only for each by itself does Prometheus see that and make up for it.
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
    """A worker's ``number`` among how many (``total``), and what gathers the others' metrics, as ``written``.

    Those of workers that do not answer in time are missing, or empty.
    """

    number: int
    total: int
    gather: Callable[[], Awaitable[Mapping[int, str]]]


#: There is none where one process is the server.
PEERS: Final = web.AppKey("peers", Peers)


class Families(Collector):
    """Metrics that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: Final = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def written(families: Iterable[Metric]) -> bytes:
    """Return ``families`` for another worker: as OpenMetrics, for Prometheus' older format would lose types."""
    text: bytes = generate_latest(Families(families))  # type: ignore[no-untyped-call]
    return text


def join(own: Sequence[Metric], peers: Peers, others: Mapping[int, str]) -> list[Metric]:
    """Return the metrics of all workers, each family once; takes 1.5 ms for each worker.

    Says, too, of how many workers there is nothing in it.
    """
    read = {number: _read(text) for number, text in others.items()}
    answers = {number: families for number, families in read.items() if families} | {peers.number: own}
    silent = "Workers that did not answer in time when this was gathered, so that their metrics are missing here."
    joined: dict[str, Metric] = {"": GaugeMetricFamily("roomcast_workers_silent", silent, peers.total - len(answers))}
    for number, families in sorted(answers.items()):
        for one in families:
            family = joined.setdefault(one.name, Metric(one.name, one.documentation, one.type, one.unit))
            family.samples += [sample._replace(labels=sample.labels | {LABEL: str(number)}) for sample in one.samples]
    return [*joined.values()]


def _read(text: str) -> list[Metric]:
    """Return what was ``written``; nothing if that worker could not write it."""
    try:
        return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    except ValueError:
        return []
