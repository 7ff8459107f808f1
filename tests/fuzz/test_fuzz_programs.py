"""The checks of the fuzz programs, with a few inputs that hypothesis derives from their seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

import fuzz_envelope
import fuzz_frames
import fuzz_http

both = pytest.mark.parametrize("program", [fuzz_frames, fuzz_envelope])


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Return a seed with replaced, removed and added bytes."""
    seed = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(seed)))
    end = draw(st.integers(start, len(seed)))
    return seed[:start] + draw(st.binary(max_size=40)) + seed[end:]


@both
def test_the_seeds(program: ModuleType) -> None:
    """Every seed passes the check."""
    for seed in program.SEEDS:
        program.check(seed)


@both
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_seeds(program: ModuleType, data: st.DataObject) -> None:
    """Inputs close to the seeds pass the check."""
    program.check(data.draw(changed(program.SEEDS)))


@pytest.fixture(scope="module")
def target() -> Iterator[fuzz_http.Target]:
    """Start one server for the module."""
    target = fuzz_http.Target()
    yield target
    target.close()


def test_http_seeds(target: fuzz_http.Target) -> None:
    """The server answers every seed."""
    for seed in fuzz_http.SEEDS:
        target.check(seed)


@settings(max_examples=100, deadline=None)
@given(data=changed(fuzz_http.SEEDS))
def test_changed_http_seeds(target: fuzz_http.Target, data: bytes) -> None:
    """The server handles inputs close to the seeds."""
    target.check(data)
