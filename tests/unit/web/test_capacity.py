"""The limits of sockets that follow from MAX_CONNECTIONS and from the limit of open files."""

import sys

import pytest

from roomcast.web.capacity import MAX_SPARE, Capacity, capacity


@pytest.mark.parametrize(
    ("max_connections", "open_files", "processes", "expected"),
    [
        (0, 512, 1, Capacity(352, 384)),
        (0, 1024, 1, Capacity(704, 768)),
        (0, 20_000, 1, Capacity(18_720, 19_744)),
        (0, 20_000, 4, Capacity(18_720, 19_744)),  # each process has a limit of its own
        (0, 40, 1, Capacity(1, 5)),
        (0, None, 1, Capacity(sys.maxsize, sys.maxsize)),
        (100, 20_000, 1, Capacity(100, 100 + MAX_SPARE)),
        (100, 20_000, 3, Capacity(34, 34 + MAX_SPARE)),
        (100, 512, 1, Capacity(100, 384)),
        (100, None, 1, Capacity(100, 100 + MAX_SPARE)),
        (5000, 512, 1, Capacity(352, 384)),
    ],
)
def test_both_limits_apply(max_connections, open_files, processes, expected):
    """MAX_CONNECTIONS is divided among the processes, and each process keeps file descriptors free."""
    assert capacity(max_connections, open_files, processes) == expected
