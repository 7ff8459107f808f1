"""The connections of a user, kept small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.broker.connection_set import ConnectionSet, add, contains, remove, size, to_tuple


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_is_a_set_of_connections(steps: list[tuple[bool, int]]) -> None:
    """Whatever is added and taken away, what is held is what a plain set would hold, and nothing is None."""
    held: ConnectionSet | None = None
    model: set[int] = set()
    for is_added, connection in steps:
        if is_added:
            held = connection if held is None else add(held, connection)
            model.add(connection)
        elif held is not None:
            held = remove(held, connection)
            model.discard(connection)
        assert (held is None) == (not model)
        if held is not None:
            assert (size(held), set(to_tuple(held))) == (len(model), model)
            assert [contains(held, one) for one in range(10)] == [one in model for one in range(10)]


def test_one_connection_is_an_int() -> None:
    """A single connection costs no container, whether it was always single or is what is left of several."""
    assert add(1, 1) == 1
    assert remove(add(1, 2), 1) == 2
