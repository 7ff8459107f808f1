"""The command that measures how nodes bear with a Redis that is away."""

import pytest
from recovery import FAULTS, MEMBERS, measured, row


@pytest.mark.parametrize("fault", ["cut-off", "killed"])
async def test_what_it_measures(fault: str) -> None:
    """Members stay connected, what is said afterwards is heard, somebody new is let in, and nothing is lost unseen."""
    found = await measured(fault)
    assert found.closed == 0
    assert found.back is not None
    assert found.let_in is not None
    assert found.said > found.refused
    if fault == "killed":
        assert found.noticed is not None
        assert found.resyncs >= MEMBERS
    else:
        assert found.refused == found.unheard == found.resyncs == 0
    assert row(fault, [found]).count("|") == 12


def test_it_knows_each_way():
    """Each fault has a name that says what is done to Redis, and another than the rest."""
    assert len({what for what, _, _ in FAULTS.values()}) == len(FAULTS) == 6
