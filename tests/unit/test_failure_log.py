"""Tests of ``failure_log``: failures that repeat are counted, and logged once a minute."""

from __future__ import annotations

import logging

import pytest

from roomcast import failure_log
from roomcast.failure_log import INTERVAL, FailureLog


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the module."""
    clock = Clock()
    monkeypatch.setattr(failure_log, "time", clock)
    return clock


def test_one_line_a_minute(clock: Clock, caplog) -> None:
    """The first failure is logged at once; each later line has the number of failures since the last."""
    failures = FailureLog(logging.getLogger("test"))
    for _ in range(5):
        failures.add("url", "It does not answer")
    clock.now += INTERVAL - 1
    failures.add("url", "It does not answer")
    clock.now += 1
    failures.add("url", "It answers 500")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "It does not answer"),
        ("WARNING", "It answers 500 (failures since the last such line: 6)"),
    ]
    assert failures.total == 7


def test_each_cause_has_its_own_lines(clock: Clock, caplog) -> None:
    """A failure with another cause is logged at once. An exception is logged with its traceback, as an error."""
    failures = FailureLog(logging.getLogger("test"))
    failures.add("a", "First")
    failures.add("b", "Second", ZeroDivisionError("the reason"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "ZeroDivisionError: the reason" in caplog.text
    assert failures.total == 2


def test_the_level_of_failures_without_an_exception_can_be_chosen(clock: Clock, caplog) -> None:
    """Exceptions are errors in any case."""
    caplog.set_level(logging.INFO)
    failures = FailureLog(logging.getLogger("test"), level=logging.INFO)
    failures.add("a", "First")
    failures.add("b", "Second", ZeroDivisionError())
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]


def test_every_failure_is_counted_in_a_line(clock: Clock, caplog) -> None:
    """Failures without a line of their own are in one when their minute is over, or when the server stops."""
    failures = FailureLog(logging.getLogger("test"))
    for text in ("First", "Second", "Third"):
        failures.add("a", text)
    failures.report()
    clock.now += INTERVAL
    failures.report()
    failures.report()
    failures.add("a", "Fourth")
    failures.add("a", "Fifth")
    failures.report(is_last=True)
    assert [record.getMessage() for record in caplog.records] == [
        "First",
        "Third (failures since the last such line: 2)",
        "Fourth",
        "Fifth",
    ]
