"""Merging the metrics of several workers: each family once, types and values unchanged."""

from __future__ import annotations

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from serving import Serve

from roomcast.web.ops.metrics import collect
from roomcast.web.ops.worker_metrics import Families, Peers, encode_metrics, merge_workers


async def gather_nothing() -> dict[int, str]:
    """Fail: ``merge_workers`` must not gather."""
    raise AssertionError


def peers(number: int, total: int) -> Peers:
    """Return the peers of worker ``number`` of ``total``."""
    return Peers(number, total, gather_nothing)


def encoded(*families: Metric) -> str:
    """Return ``families`` as another worker sends them."""
    return encode_metrics(families).decode()


def errors(**codes: float) -> Metric:
    """Return a counter with a label."""
    family = CounterMetricFamily("roomcast_errors", 'Of "all", \\ sorts.', labels=["code"])
    for code, value in codes.items():
        family.add_metric([code], value)
    return family


def samples(families: list[Metric], name: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values of a family, in order."""
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


def test_each_sample_has_the_number_of_its_worker():
    """Samples keep their labels and are in the order of the workers, regardless of the worker that merges."""
    one, two, three = (errors(bad_json=number, **{'odd"\n\\': 0.5}) for number in (1, 2, 3))
    expected = merge_workers([one], peers(1, 3), {3: encoded(three), 2: encoded(two)})
    assert merge_workers([two], peers(2, 3), {1: encoded(one), 3: encoded(three)}) == expected
    assert samples(expected, "roomcast_errors_total") == [
        ({"code": code, "worker": str(number)}, value)
        for number in (1, 2, 3)
        for code, value in (("bad_json", number), ('odd"\n\\', 0.5))
    ]
    assert samples(expected, "roomcast_workers_silent") == [({}, 0)]


@pytest.mark.parametrize("text", ["", "# HELP", "half_a_line{", "roomcast_connections 1\n"])
def test_a_worker_without_readable_metrics_counts_as_silent(text):
    """Unreadable metrics do not affect those of other workers. A missing worker counts as silent too."""
    merged = merge_workers([GaugeMetricFamily("g", "Help.", 1)], peers(2, 4), {1: text, 3: encoded(errors(a=1))})
    assert samples(merged, "roomcast_workers_silent") == [({}, 2)]
    assert samples(merged, "g") == [({"worker": "2"}, 1)]
    assert samples(merged, "roomcast_errors_total") == [({"code": "a", "worker": "3"}, 1)]


def test_a_family_of_another_worker_only_is_included():
    """A family is included even if the merging worker does not have it."""
    merged = merge_workers([], peers(1, 2), {2: encoded(InfoMetricFamily("roomcast", "Help.", {"version": "1"}))})
    assert [(family.name, family.type) for family in merged][1:] == [("roomcast", "info")]


async def test_the_merged_metrics_are_valid_and_keep_their_values(serve: Serve):
    """Gauges, counters, histograms and infos, in both formats; each family is declared once."""
    own = await collect((await serve()).gateway)
    merged = merge_workers(own, peers(1, 2), {2: encoded(*own)})
    assert [(family.name, family.type) for family in merged[1:]] == [(family.name, family.type) for family in own]
    for generate, read in ((generate_latest, parse), (generate_openmetrics, parse_openmetrics)):
        text = generate(Families(merged)).decode()
        declared = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(declared) == len({line.split()[2] for line in declared}) == len(merged)
        read_again = [family for family in read(text) if family.name != "roomcast_workers_silent"]
        alone = list(read(generate(Families(own)).decode()))
        assert len(read_again) == len(alone)
        for family, before in zip(read_again, alone, strict=True):
            for number in ("1", "2"):
                of_worker = [sample for sample in family.samples if sample.labels["worker"] == number]
                bare = [{name: v for name, v in sample.labels.items() if name != "worker"} for sample in of_worker]
                assert [sample._replace(labels=labels) for sample, labels in zip(of_worker, bare, strict=True)] == (
                    before.samples
                )
