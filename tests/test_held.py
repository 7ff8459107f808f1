"""The connections of a user, kept small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.held import Held, count, each, has, minus, plus


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_is_a_set_of_connections(steps: list[tuple[bool, int]]) -> None:
    """Whatever is added and taken away, what is held is what a plain set would hold, and nothing is None."""
    held: Held | None = None
    model: set[int] = set()
    for add, connection in steps:
        if add:
            held = connection if held is None else plus(held, connection)
            model.add(connection)
        elif held is not None:
            held = minus(held, connection)
            model.discard(connection)
        assert (held is None) == (not model)
        if held is not None:
            assert (count(held), set(each(held))) == (len(model), model)
            assert [has(held, one) for one in range(10)] == [one in model for one in range(10)]


def test_one_connection_is_an_int() -> None:
    """A single connection costs no container, whether it was always single or is what is left of several."""
    assert plus(1, 1) == 1
    assert minus(plus(1, 2), 1) == 2
