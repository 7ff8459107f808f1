"""Measures: percentiles in constant space."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomcast.cli.bench_results import Latencies


def filled(microseconds) -> Latencies:
    """Latencies of so many microseconds."""
    latencies = Latencies()
    for value in microseconds:
        latencies.add(value * 1000)
    return latencies


def test_nothing_is_zero():
    """Without a delivery there is no latency."""
    assert Latencies().milliseconds(0.5) == Latencies().milliseconds(1) == 0


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=200)
def test_a_percentile_is_within_a_hundredth(values, share):
    """It is that of the sorted values, and at most one per cent above; the longest is exact."""
    latencies = filled(values)
    place = -(-len(values) * round(share * 100) // 100) - 1
    exact = sorted(values)[place] / 1000
    assert exact <= latencies.milliseconds(share) <= exact * 1.01
    assert latencies.milliseconds(1) == max(values) / 1000


@pytest.mark.parametrize("count", [100, 10_000])
def test_space_does_not_grow_with_the_count(count):
    """A long run costs no more than the range of what it saw."""
    draw = random.Random(1)
    latencies = filled(draw.randrange(10**6) for _ in range(count))
    assert len(latencies._counts) <= 128 * 14
