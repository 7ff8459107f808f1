"""The latencies of a bench: quantiles in constant space."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomcast.cli.bench_results import Latencies


def latencies_of(microseconds) -> Latencies:
    """Return a histogram of latencies in microseconds."""
    latencies = Latencies()
    for value in microseconds:
        latencies.add(value * 1000)
    return latencies


def test_without_a_delivery_the_latency_is_zero():
    """Every quantile of an empty histogram is 0."""
    assert Latencies().quantile(0.5) == Latencies().quantile(1) == 0


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=200)
def test_a_quantile_is_accurate_to_one_per_cent(values, share):
    """A quantile is at most 1 % above that of the sorted values. The longest latency is exact."""
    latencies = latencies_of(values)
    index = -(-len(values) * round(share * 100) // 100) - 1
    exact = sorted(values)[index] / 1000
    assert exact <= latencies.quantile(share) <= exact * 1.01
    assert latencies.quantile(1) == max(values) / 1000


@pytest.mark.parametrize("count", [100, 10_000])
def test_space_does_not_grow_with_the_count(count):
    """The number of buckets depends only on the range of the latencies."""
    draw = random.Random(1)
    latencies = latencies_of(draw.randrange(10**6) for _ in range(count))
    assert len(latencies._counts) <= 128 * 14
