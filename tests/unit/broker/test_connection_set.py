"""Compact sets of connection ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.broker.connection_set import ConnectionSet, add, contains, remove, size, to_tuple


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_behaves_like_a_set(operations: list[tuple[bool, int]]) -> None:
    """After any additions and removals it contains what a set would contain, and an empty one is None."""
    connections: ConnectionSet | None = None
    model: set[int] = set()
    for is_added, connection in operations:
        if is_added:
            connections = connection if connections is None else add(connections, connection)
            model.add(connection)
        elif connections is not None:
            connections = remove(connections, connection)
            model.discard(connection)
        assert (connections is None) == (not model)
        if connections is not None:
            assert (size(connections), set(to_tuple(connections))) == (len(model), model)
            assert [contains(connections, one) for one in range(10)] == [one in model for one in range(10)]


def test_one_connection_is_an_int() -> None:
    """A single connection is an int, even if it is what is left of several."""
    assert add(1, 1) == 1
    assert remove(add(1, 2), 1) == 2
