"""The metrics of the functions of plugins: how long they take, and how often they fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from ...gateway.plugin_times import BOUNDS, PluginTimes

_LABELS = ("plugin", "function")


def plugin_metrics(times: PluginTimes) -> Iterator[Metric]:
    """Yield the times and the failures by plugin and function. All functions begin with 0."""
    bounds = [*map(str, BOUNDS), "+Inf"]
    seconds = HistogramMetricFamily(
        "roomcast_plugin_seconds",
        "Seconds that a function of a plugin took: hooks, rules, routes, and handlers of plugins that were installed.",
        labels=_LABELS,
    )
    errors = CounterMetricFamily(
        "roomcast_plugin_errors", "Calls of a function of a plugin that failed or took too long.", labels=_LABELS
    )
    for labels, one in sorted(times.functions.items()):
        buckets = list(zip(bounds, accumulate(one.counts), strict=True))
        seconds.add_metric(labels, buckets, one.seconds)
        errors.add_metric(labels, one.errors)
    yield seconds
    yield errors
