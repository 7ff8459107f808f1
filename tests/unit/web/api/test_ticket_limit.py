"""How many tickets a user may have at a time, by a clock that stands still unless it is set."""

from __future__ import annotations

from roomcast.web.api.ticket_limit import MAX_UNUSED, TicketLimit


def test_a_user_has_so_many_at_a_time():
    """The next is refused until one was used or has ended; another user's are their own."""
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
    assert tickets.add(7, "after the first has ended", 30)
    assert not tickets.add(7, "and no other", 30)


def test_nothing_is_left_of_what_was_used_or_has_ended():
    """Users who come once are not kept."""
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
