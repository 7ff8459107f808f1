"""The feature soak, in short runs, and its checks, which must report each kind of problem."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from feature_record import Record, UnreadClaim
from feature_view import View
from paths import TESTS

SOAK = TESTS / "support" / "feature_soak.py"
ROOM = "channel:1"


@pytest.mark.parametrize("options", [("--embedded",), ()], ids=["embedded", "redis"])
def test_short_soak_passes(options: tuple[str, ...]) -> None:
    """All features together keep their promises while nodes are killed, restarted, stopped and cut off from Redis."""
    command = [sys.executable, str(SOAK), "--minutes", "0.2", "--seed", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {
        name: int(count.replace(",", ""))
        for count, name in (line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    }
    for name in ("events", "joins: recovered", "joins: with last", "pages", "live: typing", "unread checked exactly"):
        assert counts.get(name), f"{name}: the soak was idle\n{done.stdout}"


@pytest.fixture
def record() -> Record:
    """Return a record in which the texts 1 to 20 were sent without a key."""
    record = Record(10)
    record.keys |= {f"{ROOM} {number}": None for number in range(1, 21)}
    return record


@pytest.fixture
def view(record: Record) -> View:
    """Return a view of ROOM by a connection of user 1."""
    return View(record, "alice", 1, ROOM)


def event(offset: int, text: str | None = None, user: int = 2, **more: Any) -> dict[str, Any]:
    """Return a message."""
    data = {"content": text or f"{ROOM} {offset}", "user_id": user}
    return {"type": "message", "room": ROOM, "data": data, "id": f"a-{offset}", **more}


def join(view: View, options: dict[str, Any], last: int, **more: Any) -> None:
    """Join ROOM, whose newest event is ``last``."""
    view.on_joined({"unread": 0, "last_id": f"a-{last}", **more}, options, ("", 0))


@pytest.mark.parametrize(
    ("offsets", "problems"), [((4, 5), []), ((4, 6), ["order"]), ((4, 4), ["order"]), ((5,), ["order"])]
)
def test_events_after_a_resume(record: Record, view: View, offsets: tuple[int, ...], problems: list[str]) -> None:
    """The missed events follow from ``since`` on, without gaps or duplicates."""
    join(view, {"since": "a-3"}, 5, recovered=True)
    for offset in offsets:
        view.on_event(event(offset))
    assert list(record.problems) == problems


@pytest.mark.parametrize(
    ("offsets", "more", "problems"),
    [((4, 5, 6), True, []), ((5, 6), False, ["last"]), ((3, 4), True, ["last"]), ((6,), True, ["last"])],
)
def test_the_newest_events(
    record: Record, view: View, offsets: tuple[int, ...], more: bool, problems: list[str]
) -> None:
    """As many of the newest events follow as were asked for, and later events follow them."""
    join(view, {"last": 2}, 5, more=more)
    for offset in offsets:
        view.on_event(event(offset))
    assert list(record.problems) == problems


def test_other_problems(record: Record, view: View) -> None:
    """Events of another room, a wrong key, a live event with an id, a needless loss and a wrong count are reported."""
    view.on_event(event(1))
    assert list(record.problems) == ["outside"]
    join(view, {"since": "a-3"}, 5, recovered=False)
    assert list(record.problems) == ["outside", "needless loss"]
    view.on_event(event(6, key="k"))
    assert list(record.problems)[2:] == ["wrong key"]
    view.on_live({"type": "typing", "room": ROOM, "data": {"user_id": 1}})
    view.on_live({"type": "typing", "room": ROOM, "data": {"user_id": 2}, "id": "a-7"})
    assert len(record.problems["live"]) == 2
    for offset in range(7, 10):
        view.on_event(event(offset))
    record.claims.append(UnreadClaim("alice", 1, ROOM, "a", 9, 2, 6, 6, "a test"))
    record.check_end()
    assert len(record.problems["unread"]) == 1


def test_pages_of_history(record: Record, view: View) -> None:
    """A page with a gap, one that is too short, and one with an event that is not yet received live are reported."""
    join(view, {}, 9)
    last_id = {"last_id": "a-9"}
    view.on_history({"limit": 3}, {"events": [event(7), event(8), event(9)], "more": True, **last_id})
    assert not record.problems
    view.on_history({"limit": 3}, {"events": [event(6), event(8), event(9)], "more": True, **last_id})
    assert len(record.problems["history"]) == 1
    view.on_history({"limit": 3}, {"events": [event(8), event(9)], "more": False, **last_id})
    assert len(record.problems["history"]) == 2
    view.on_history({"limit": 1}, {"events": [event(10)], "more": True, "last_id": "a-10"})
    assert len(record.problems["history"]) == 3
