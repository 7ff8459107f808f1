"""How often somebody may try, by a clock that stands still unless it is set."""

from __future__ import annotations

from roomcast.web.pages.login import LoginAttempts


def test_so_many_in_a_window_and_then_a_wait():
    """The wait is until the oldest of them is over; others may try meanwhile."""
    now = 100.0
    attempts = LoginAttempts(3, 60, clock=lambda: now)
    for at in (100.0, 110.0, 120.0):
        now = at
        assert attempts.wait("a") == 0
        attempts.add("a")
    assert attempts.wait("a") == 40
    assert attempts.wait("b") == 0
    now = 159.9
    assert attempts.wait("a") > 0
    now = 160.0
    assert attempts.wait("a") == 0
    attempts.add("a")
    assert attempts.wait("a") == 10


def test_names_are_forgotten():
    """Those whose attempts are over, and the oldest when there are too many."""
    now = 0.0
    attempts = LoginAttempts(1, 60, max_addresses=3, clock=lambda: now)
    for name in "abcd":
        attempts.add(name)
    assert [name for name in "abcd" if attempts.wait(name)] == ["b", "c", "d"]
    now = 60.0
    for name in "efg":
        attempts.add(name)
    assert len(attempts._attempts) == 3
