"""The size of a page of history."""

from __future__ import annotations

from collections.abc import Iterable

from .base import PAGE_EVENT_OVERHEAD


def count_fitting(payloads: Iterable[bytes], max_bytes: int) -> int:
    """Return how many of ``payloads``, beginning with the first, fit into a page of ``max_bytes``; at least one."""
    count = 0
    for payload in payloads:
        max_bytes -= len(payload) + PAGE_EVENT_OVERHEAD
        if max_bytes < 0 and count:
            break
        count += 1
    return count
