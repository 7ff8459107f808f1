"""The limit of idempotency keys, and their digests. ``web.api`` and ``gateway.commands`` test ``run_once``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.broker.base import KEY_TTL
from roomcast.idempotency import KEY_BURST, KeyLimit, digest_of


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 2000), st.integers(0, 100)), max_size=100))
def test_stored_keys_are_bounded(uses: list[tuple[float, int, int]]) -> None:
    """However a user distributes commands and answers, the keys within any KEY_TTL are bounded."""
    clock, rate = Clock(), 10
    limit = KeyLimit(rate, clock)
    stored: list[tuple[float, int]] = []
    for pause, commands, answer in uses:
        clock.now += pause
        for _ in range(commands):
            if limit.is_reached("u"):
                break
            limit.count("u", 1)
            limit.count("u", answer)
            stored.append((clock.now, 1 + answer))
        recent = sum(keys for time, keys in stored if time > clock.now - KEY_TTL)
        assert recent <= rate * (KEY_TTL + KEY_BURST) + 101


def test_a_steady_user_is_never_limited() -> None:
    """A user may use ``rate`` keys a second for any time, and a burst of KEY_BURST seconds on top."""
    clock = Clock()
    limit = KeyLimit(10, clock)
    for _ in range(int(10 * KEY_BURST) - 1):
        assert not limit.is_reached(1)
        limit.count(1, 1)
    for _ in range(10_000):
        clock.now += 0.1
        assert not limit.is_reached(1)
        limit.count(1, 1)
    limit.count(1, 2)
    assert limit.is_reached(1)
    assert not limit.is_reached(2)


def test_users_are_forgotten() -> None:
    """The memory of the limit is bounded by the users whose keys count at the moment."""
    clock = Clock()
    limit = KeyLimit(100, clock)
    for user in range(100_000):
        clock.now += 0.01
        limit.count(user, 1)
    assert len(limit._used_until) <= 1000
    for user in range(5000):
        limit.count(user, 1000)
    limit.count("late", 1)
    assert all(limit._used_until[user] > clock.now for user in range(5000))


@given(st.text(max_size=300), st.text(max_size=300))
def test_digests(one: str, other: str) -> None:
    """Digests are short, and differ for different keys."""
    assert len(digest_of(one)) == 32
    assert (digest_of(one) == digest_of(other)) is (one == other)
