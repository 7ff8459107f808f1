"""The limit of unused tickets of a user, with a clock that the test sets."""

from __future__ import annotations

from roomcast.web.api.ticket_limit import MAX_UNUSED, TicketLimit


def test_a_user_has_a_limited_number_of_unused_tickets():
    """Another ticket is refused until one is used or expires. Other users are not affected."""
    now = 0.0
    tickets = TicketLimit(lambda: now)
    for number in range(MAX_UNUSED):
        now = number / MAX_UNUSED
        assert tickets.add(7, f"t{number}", 30)
    assert not tickets.add(7, "more", 30)
    assert tickets.add("7", "another's", 30)
    tickets.remove(7, "t50")
    assert tickets.add(7, "more", 30)
    assert not tickets.add(7, "still more", 30)
    now = 30.0
    assert tickets.add(7, "after the first one expired", 30)
    assert not tickets.add(7, "one too many", 30)


def test_used_and_expired_tickets_are_forgotten():
    """Users without tickets take no memory."""
    now = 0.0
    tickets = TicketLimit(lambda: now)
    for user in range(1000):
        tickets.add(user, f"t{user}", 30)
        if user % 2:
            tickets.remove(user, f"t{user}")
    now = 30.0
    tickets.add(1, "the last", 30)
    tickets.remove(1, "the last")
    tickets.remove(2, "unknown")
    assert (tickets._users, len(tickets._expiries)) == ({}, 1)
