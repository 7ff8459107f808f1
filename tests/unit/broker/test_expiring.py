"""Dicts with expiring entries: their size is what they take. ``test_memory`` tests how the broker uses them."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from roomcast.broker.expiring import ExpiringDict
from roomcast.errors import Unavailable

COUNT = 2000


@pytest.mark.parametrize(
    ("text", "length"), [("x", 1), ("x", 64), ("é", 128), ("☃", 128), ("\U0001f600", 128), ("\U0001f600", 600)]
)
@pytest.mark.parametrize("value_size", [0, 30, 5000])
def test_the_size_is_the_memory(text: str, length: int, value_size: int) -> None:
    """The estimated size is close to the memory in use, for characters of any width and values of any length."""
    entries: ExpiringDict[tuple[str, str], bytes] = ExpiringDict(10**9)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(COUNT):
            key = ("".join(("channel:", str(number))), text * length + str(number))
            entries.put(key, bytes(value_size), float(number), 1e9)
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 < entries.size / memory < 1.5


def test_a_full_dict_refuses() -> None:
    """A full dict raises until entries expire, and drops none early."""
    entries: ExpiringDict[str, bytes] = ExpiringDict(10_000)
    added = 0
    with pytest.raises(Unavailable):
        while True:
            entries.check_space(0.0)
            entries.put(str(added), b"x", 0.0, 10.0 + added)
            added += 1
    assert 10 < added < 40
    assert all(entries.get(str(number), 9.0) == b"x" for number in range(added))
    entries.check_space(10.5)
    assert entries.get("0", 10.5) is None
