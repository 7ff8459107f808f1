"""The metrics of several workers become one exposition: each family once, types and values as they were."""

from __future__ import annotations

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from serving import Serve

from roomcast.web.ops.metrics import collect
from roomcast.web.ops.worker_metrics import Families, Peers, join, written


async def nobody() -> dict[int, str]:
    """What is not asked here."""
    raise AssertionError


def peers(number: int, total: int) -> Peers:
    """A worker among others."""
    return Peers(number, total, nobody)


def errors(**codes: float) -> Metric:
    """A counter with a label."""
    family = CounterMetricFamily("roomcast_errors", 'Of "all", \\ sorts.', labels=["code"])
    for code, value in codes.items():
        family.add_metric([code], value)
    return family


def samples(families: list[Metric], name: str) -> list[tuple[dict[str, str], float]]:
    """The labels and values of a family, in their order."""
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


def test_every_sample_says_whose_it_is():
    """In the workers' order, whoever was asked; what has labels keeps them."""
    one, two, three = (errors(bad_json=number, **{'odd"\n\\': 0.5}) for number in (1, 2, 3))
    expected = join([one], peers(1, 3), {3: written([three]).decode(), 2: written([two]).decode()})
    assert join([two], peers(2, 3), {1: written([one]).decode(), 3: written([three]).decode()}) == expected
    assert samples(expected, "roomcast_errors_total") == [
        ({"code": code, "worker": str(number)}, value)
        for number in (1, 2, 3)
        for code, value in (("bad_json", number), ('odd"\n\\', 0.5))
    ]
    assert samples(expected, "roomcast_workers_silent") == [({}, 0)]


@pytest.mark.parametrize("text", ["", "# HELP", "half_a_line{", "roomcast_connections 1\n"])
def test_who_says_nothing_that_can_be_read_is_silent(text):
    """It is counted, and spoils nothing; so is who is missing."""
    joined = join([GaugeMetricFamily("g", "Help.", 1)], peers(2, 4), {1: text, 3: written([errors(a=1)]).decode()})
    assert samples(joined, "roomcast_workers_silent") == [({}, 2)]
    assert samples(joined, "g") == [({"worker": "2"}, 1)]
    assert samples(joined, "roomcast_errors_total") == [({"code": "a", "worker": "3"}, 1)]


def test_what_only_others_have_is_there():
    """A family need not be one of the worker that is asked."""
    joined = join([], peers(1, 2), {2: written([InfoMetricFamily("roomcast", "Help.", {"version": "1"})]).decode()})
    assert [(family.name, family.type) for family in joined][1:] == [("roomcast", "info")]


async def test_a_whole_exposition_is_valid_and_keeps_its_values(serve: Serve):
    """Gauges, counters, histograms and infos, in both formats; each family is declared once."""
    own = await collect((await serve()).gateway)
    joined = join(own, peers(1, 2), {2: written(own).decode()})
    assert [(family.name, family.type) for family in joined[1:]] == [(family.name, family.type) for family in own]
    for generate, read in ((generate_latest, parse), (generate_openmetrics, parse_openmetrics)):
        text = generate(Families(joined)).decode()
        declared = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(declared) == len({line.split()[2] for line in declared}) == len(joined)
        read_again = [family for family in read(text) if family.name != "roomcast_workers_silent"]
        alone = list(read(generate(Families(own)).decode()))
        assert len(read_again) == len(alone)
        for family, before in zip(read_again, alone, strict=True):
            for number in ("1", "2"):
                mine = [sample for sample in family.samples if sample.labels["worker"] == number]
                bare = [{name: v for name, v in sample.labels.items() if name != "worker"} for sample in mine]
                assert [sample._replace(labels=labels) for sample, labels in zip(mine, bare, strict=True)] == (
                    before.samples
                )
