"""Tests of ``roomcast_client.errors``."""

from __future__ import annotations

import pickle

import pytest

from roomcast_client import ListenerStopped, Problem, Refused, RoomcastError, errors
from roomcast_client.errors import BadResponse


@pytest.mark.parametrize(
    "error",
    [
        Refused("A sentence.", "bad_room", 422, fields={"a": ["b"]}, problems=(Problem(0, "room", "x", "bad_room"),)),
        BadResponse("A sentence.", 502),
        ListenerStopped("A sentence.", 4410, "channel:1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_sent_between_processes(error: RoomcastError) -> None:
    """An error that was pickled, as Celery does it, has the same text and attributes."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_the_tree_in_the_docstring_is_complete() -> None:
    """Each exception is in the docstring of the module."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in kinds) and len(kinds) > 9
