"""The program that measures how long a Redis outage affects nodes."""

import pytest
from recovery import FAULTS, MEMBERS, measure, row


@pytest.mark.parametrize("fault", ["disconnected", "killed"])
async def test_measure_one_fault(fault: str) -> None:
    """Members stay connected, later messages are delivered, new connections are admitted, and each loss is reported."""
    found = await measure(fault)
    assert found.closed == 0
    assert found.delivered_at is not None
    assert found.admitted_at is not None
    assert found.sent > found.refused
    if fault == "killed":
        assert found.noticed_at is not None
        assert found.resyncs >= MEMBERS
    else:
        assert found.refused == found.undelivered == found.resyncs == 0
    assert row(fault, [found]).count("|") == 12


def test_each_fault_has_its_own_description():
    """No two faults have the same title in the table."""
    assert len({what for what, _, _ in FAULTS.values()}) == len(FAULTS) == 6
