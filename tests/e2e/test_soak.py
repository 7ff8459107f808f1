"""The soak itself, in short; and that its ledger notices what must not be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import TESTS
from soak_ledger import Ledger, View

SOAK = TESTS / "support" / "soak.py"
ROOM = "channel:1"


def test_the_soak() -> None:
    """Three nodes keep their promises while they and their Redis are killed, stopped and cut off."""
    command = [sys.executable, str(SOAK), "--minutes", "0.15", "--pace", "0.9", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.strip().rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    for name in ("acknowledged", "delivered", "recovered"):
        assert int(counts[name]) > 0, f"{name}: the soak was idle\n{done.stdout}"
    assert sum(name.startswith("fault: ") for name in counts) >= 5, done.stdout


@pytest.fixture
def ledger() -> Ledger:
    """A ledger of nodes with a short history."""
    return Ledger(history_size=10)


def member(ledger: Ledger, name: str = "tab") -> View:
    """A member of ``ROOM`` that has joined at 1-0."""
    view = View(ledger, name, ROOM)
    view.joined(recovered=False, last_id="1-0")
    return view


def say(*views: View, offset: int, epoch: int = 1, text: str | None = None) -> None:
    """Tell members of an event, by default one that is like no other."""
    for view in views:
        view.event(f"{epoch}-{offset}", text or f"{view.room} alice {epoch} {offset}")


def resume(view: View, *, recovered: bool, last_id: str) -> None:
    """Leave, and come back."""
    view.left("a test")
    view.ask()
    view.joined(recovered, last_id)


def noticed(ledger: Ledger) -> list[str]:
    """The kinds of violations; each must be told of."""
    kinds = [kind for kind in ledger.counts if kind not in EXPECTED]
    assert len(ledger.violations) == sum(ledger.counts[kind] for kind in kinds)
    return kinds


#: What is counted without being wrong.
EXPECTED = {"acknowledged", "delivered", "resumes", "recovered", "told: not recovered", "told: resync"}


def test_nothing_to_notice(ledger: Ledger) -> None:
    """What is in order is no violation: events, a resume, a long absence, and data lost as told."""
    view, other = member(ledger), member(ledger, "other")
    say(view, other, offset=1)
    resume(view, recovered=True, last_id="1-2")
    say(view, other, offset=2)
    resume(view, recovered=False, last_id="1-20")
    view.resync("2-0")
    other.resync("2-0")
    say(view, other, offset=1, epoch=2)
    ledger.acknowledged(ROOM, "2-1", f"{ROOM} alice 2 1", "alice")
    ledger.check_history(ROOM, "node", [event(2, 1)], "2-1")
    assert noticed(ledger) == []


def event(epoch: int, offset: int) -> dict[str, object]:
    """An event as histories have it."""
    return {"type": "message", "id": f"{epoch}-{offset}", "data": {"content": f"{ROOM} alice {epoch} {offset}"}}


def test_a_hole(ledger: Ledger) -> None:
    """A member that hears 3 after 1 has missed something."""
    view = member(ledger)
    say(view, offset=1)
    say(view, offset=3)
    assert noticed(ledger) == ["missing"]
    assert f"{ROOM} went from 1-1 to 1-3" in ledger.violations[0]


def test_a_hole_over_a_resume(ledger: Ledger) -> None:
    """A member that was told that it has recovered must get the very next event."""
    view = member(ledger)
    say(view, offset=1)
    resume(view, recovered=True, last_id="1-3")
    say(view, offset=3)
    assert noticed(ledger) == ["missing"]


def test_data_lost_in_silence(ledger: Ledger) -> None:
    """A new epoch without a resync, or a recovery into one, is a loss that the member was not told of."""
    view, other = member(ledger), member(ledger, "other")
    say(view, offset=1, epoch=2)
    resume(other, recovered=True, last_id="2-1")
    assert noticed(ledger) == ["missing"]
    assert ledger.counts["missing"] == 2


def test_told_in_vain(ledger: Ledger) -> None:
    """A member is not told to load its state anew when history has all that it missed."""
    view, other = member(ledger), member(ledger, "other")
    view.resync("1-4")
    resume(other, recovered=False, last_id="1-10")
    assert noticed(ledger) == ["told in vain"]
    assert ledger.counts["told in vain"] == 2


def test_doubles(ledger: Ledger) -> None:
    """A member that hears an event again, or an older one, is noticed."""
    view = member(ledger)
    for offset in (1, 2, 2, 1):
        say(view, offset=offset)
    assert noticed(ledger) == ["doubles"]
    assert ledger.counts["doubles"] == 2


def test_one_id_for_two_events(ledger: Ledger) -> None:
    """Members and publishers must agree on what an id stands for."""
    view = member(ledger)
    say(view, offset=1)
    ledger.acknowledged(ROOM, "1-1", f"{ROOM} bob", "bob")
    assert noticed(ledger) == ["two events of one id"]


def test_published_twice(ledger: Ledger) -> None:
    """What a publisher asked for again must not be in the room twice."""
    view = member(ledger)
    say(view, offset=1, text=f"{ROOM} bob 1")
    say(view, offset=2, text=f"{ROOM} bob 1")
    assert noticed(ledger) == ["published twice"]


def test_foreign_rooms(ledger: Ledger) -> None:
    """What comes from another room, or after leaving, is noticed."""
    view = member(ledger)
    say(view, offset=1, text="channel:2 alice 1")
    view.left("a test")
    say(view, offset=2)
    assert noticed(ledger) == ["foreign room"]
    assert ledger.counts["foreign room"] == 2


def test_back_in_time(ledger: Ledger) -> None:
    """No member is taken back to what it has seen."""
    view, other = member(ledger), member(ledger, "other")
    say(view, other, offset=1)
    view.resync("0-9")
    resume(other, recovered=False, last_id="1-0")
    assert noticed(ledger) == ["out of order"]
    assert ledger.counts["out of order"] == 2


def test_a_history_without_what_was_acknowledged(ledger: Ledger) -> None:
    """What was acknowledged must be in the history, however late anybody looks."""
    ledger.acknowledged(ROOM, "1-2", f"{ROOM} alice 1 2", "alice")
    ledger.check_history(ROOM, "node", [event(1, 1)], "1-1")
    assert noticed(ledger) == ["missing"]


def test_a_history_with_a_hole(ledger: Ledger) -> None:
    """A history is consecutive up to the newest event."""
    ledger.check_history(ROOM, "node", [event(1, 1), event(1, 3)], "1-3")
    assert noticed(ledger) == ["out of order"]
