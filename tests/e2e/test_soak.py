"""The soak, in a short run, and its ledger, which must report each kind of violation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import TESTS
from soak_ledger import Ledger
from soak_room_view import RoomView

SOAK = TESTS / "support" / "soak.py"
ROOM = "channel:1"


def test_short_soak_passes() -> None:
    """Three nodes keep the guarantees while they and their Redis are killed, stopped and disconnected."""
    command = [sys.executable, str(SOAK), "--minutes", "0.25", "--pace", "0.9", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.strip().rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    for name in ("acknowledged", "delivered", "recovered"):
        assert int(counts[name]) > 0, f"{name}: the soak was idle\n{done.stdout}"
    assert sum(name.startswith("fault: ") for name in counts) >= 5, done.stdout


@pytest.fixture
def ledger() -> Ledger:
    """Return the ledger of nodes with a short history."""
    return Ledger(history_size=10)


def member(ledger: Ledger, name: str = "tab") -> RoomView:
    """Return a member of ``ROOM`` that joined at 1-0."""
    view = RoomView(ledger, name, ROOM)
    view.on_joined(recovered=False, last_id="1-0")
    return view


def deliver(*views: RoomView, offset: int, epoch: int = 1, text: str | None = None) -> None:
    """Deliver an event to members, by default with a text of its own."""
    for view in views:
        view.on_event(f"{epoch}-{offset}", text or f"{view.room} alice {epoch} {offset}")


def resume(view: RoomView, *, recovered: bool, last_id: str) -> None:
    """Leave the room and join it again."""
    view.on_left("a test")
    view.resume_from()
    view.on_joined(recovered, last_id)


def violations(ledger: Ledger) -> list[str]:
    """Return the kinds of violations. Each violation must have a text."""
    kinds = [kind for kind in ledger.counts if kind not in EXPECTED]
    assert len(ledger.violations) == sum(ledger.counts[kind] for kind in kinds)
    return kinds


#: Counts that are not violations.
EXPECTED = {
    *("acknowledged", "delivered", "resumes", "recovered", "recovered in a newer epoch", "not recovered", "resync"),
    *("rooms that lost data", "lost without notice, tolerated"),
}


def event(epoch: int, offset: int) -> dict[str, object]:
    """Return an event as the history contains it."""
    return {"type": "message", "id": f"{epoch}-{offset}", "data": {"content": f"{ROOM} alice {epoch} {offset}"}}


def test_correct_delivery_is_no_violation(ledger: Ledger) -> None:
    """Events in order, a resume, a long absence and a reported loss of data are correct."""
    view, other = member(ledger), member(ledger, "other")
    deliver(view, other, offset=1)
    resume(view, recovered=True, last_id="1-2")
    deliver(view, other, offset=2)
    resume(view, recovered=False, last_id="1-20")
    ledger.lost_data([ROOM])
    view.on_resync("2-0")
    other.on_resync("2-0")
    deliver(view, other, offset=1, epoch=2)
    ledger.acknowledged(ROOM, "2-1", f"{ROOM} alice 2 1", "alice")
    ledger.check_history(ROOM, "node", [event(2, 1)], "2-1")
    assert violations(ledger) == []


def test_newer_epoch_without_a_loss_is_no_violation(ledger: Ledger) -> None:
    """After a restart that lost nothing, offsets count on in a newer epoch, live and for members that resume."""
    view, absent, quiet = member(ledger), member(ledger, "absent"), member(ledger, "quiet")
    deliver(view, absent, quiet, offset=1)
    ledger.acknowledged(ROOM, "1-1", f"{ROOM} alice 1 1", "alice")
    deliver(view, quiet, offset=2, epoch=2)
    resume(absent, recovered=True, last_id="2-2")
    deliver(absent, offset=2, epoch=2)
    resume(quiet, recovered=True, last_id="2-2")
    ledger.check_history(ROOM, "node", [event(1, 1), event(2, 2)], "2-2")
    for one in (view, absent, quiet):
        one.check_losses()
    assert violations(ledger) == []
    assert ledger.counts["recovered in a newer epoch"] == 1


def test_gap(ledger: Ledger) -> None:
    """A member that receives 3 after 1 has missed an event."""
    view = member(ledger)
    deliver(view, offset=1)
    deliver(view, offset=3)
    assert violations(ledger) == ["missing"]
    assert f"{ROOM} went from 1-1 to 1-3" in ledger.violations[0]


def test_gap_after_a_resume(ledger: Ledger) -> None:
    """After ``recovered: true``, a member must receive the next event."""
    view = member(ledger)
    deliver(view, offset=1)
    resume(view, recovered=True, last_id="1-3")
    deliver(view, offset=3)
    assert violations(ledger) == ["missing"]


@pytest.mark.parametrize("is_online", [False, True])
@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_unreported_loss(ledger: Ledger, is_online: bool, is_acknowledged: bool) -> None:
    """A member that goes on in a newer epoch without notice has missed what was lost in between."""
    view = member(ledger)
    deliver(view, offset=1)
    if is_acknowledged:
        ledger.acknowledged(ROOM, "1-2", f"{ROOM} alice 1 2", "alice")
    else:
        other = member(ledger, "other")
        deliver(other, offset=1)
        deliver(other, offset=2)
    ledger.lost_data([ROOM])
    if not is_online:
        resume(view, recovered=True, last_id="2-2")
    deliver(view, offset=2, epoch=2)
    assert violations(ledger) == []
    view.check_losses()
    assert violations(ledger) == ["missing"]
    assert "without notice that 1-2 was lost" in ledger.violations[0]


def test_loss_that_is_reported_late(ledger: Ledger) -> None:
    """A loss may be reported after the member went on, and without notice if a node ended that knew it."""
    view, other = member(ledger), member(ledger, "other")
    deliver(view, other, offset=1)
    ledger.acknowledged(ROOM, "1-2", f"{ROOM} alice 1 2", "alice")
    incident = ledger.lost_data([ROOM])
    deliver(view, other, offset=2, epoch=2)
    view.on_resync("3-2")
    view.check_losses()
    incident.nodes_ended = True
    other.check_losses()
    assert violations(ledger) == []
    assert ledger.counts["lost without notice, tolerated"] == 1


def test_needless_resync(ledger: Ledger) -> None:
    """A resync or ``recovered: false`` is wrong if the history contains all missed events."""
    view, other = member(ledger), member(ledger, "other")
    view.on_resync("1-4")
    resume(other, recovered=False, last_id="1-10")
    assert violations(ledger) == ["needless resync"]
    assert ledger.counts["needless resync"] == 2


def test_false_alarm_after_a_restart(ledger: Ledger) -> None:
    """A newer epoch alone, or the loss of another room, or of a time before the member came, is no reason to resync."""
    view, other = member(ledger), member(ledger, "other")
    ledger.lost_data(["channel:2"]).reported_by = 0
    view.on_resync("2-0")
    resume(other, recovered=False, last_id="2-3")
    assert violations(ledger) == ["needless resync"]
    ledger.lost_data([ROOM]).reported_by = 0
    for one in (view, other):
        one.on_resync("3-0")
    assert ledger.counts["needless resync"] == 2
    other.on_resync("4-0")  # again
    member(ledger, "late").on_resync("5-0")
    assert ledger.counts["needless resync"] == 4


def test_repeated_events(ledger: Ledger) -> None:
    """A member that receives an event again, or an older event, is a violation."""
    view = member(ledger)
    for offset in (1, 2, 2, 1):
        deliver(view, offset=offset)
    assert violations(ledger) == ["doubles"]
    assert ledger.counts["doubles"] == 2


def test_one_id_for_two_events(ledger: Ledger) -> None:
    """Members and publishers must have the same event for an id."""
    view = member(ledger)
    deliver(view, offset=1)
    ledger.acknowledged(ROOM, "1-1", f"{ROOM} bob", "bob")
    assert violations(ledger) == ["two events of one id"]


def test_published_twice(ledger: Ledger) -> None:
    """A retried publish must not add a second event."""
    view = member(ledger)
    deliver(view, offset=1, text=f"{ROOM} bob 1")
    deliver(view, offset=2, text=f"{ROOM} bob 1")
    assert violations(ledger) == ["published twice"]


def test_foreign_rooms(ledger: Ledger) -> None:
    """Events of another room, or of a room that the member left, are violations."""
    view = member(ledger)
    deliver(view, offset=1, text="channel:2 alice 1")
    view.on_left("a test")
    deliver(view, offset=2)
    assert violations(ledger) == ["foreign room"]
    assert ledger.counts["foreign room"] == 2


def test_going_back(ledger: Ledger) -> None:
    """A resync or a join must not take a member back to an older id."""
    view, other = member(ledger), member(ledger, "other")
    deliver(view, other, offset=1)
    view.on_resync("0-9")
    resume(other, recovered=False, last_id="1-0")
    assert violations(ledger) == ["out of order"]
    assert ledger.counts["out of order"] == 2


def test_history_without_an_acknowledged_event(ledger: Ledger) -> None:
    """The history must contain each acknowledged event."""
    ledger.acknowledged(ROOM, "1-2", f"{ROOM} alice 1 2", "alice")
    ledger.check_history(ROOM, "node", [event(1, 1)], "1-1")
    assert violations(ledger) == ["missing"]


def test_history_without_an_event_of_an_older_epoch(ledger: Ledger) -> None:
    """If Redis has lost nothing, the history contains the acknowledged events of all epochs."""
    ledger.acknowledged(ROOM, "1-2", f"{ROOM} alice 1 2", "alice")
    ledger.check_history(ROOM, "node", [event(2, 3)], "2-3")
    assert violations(ledger) == ["missing"]


def test_history_with_a_repeated_event(ledger: Ledger) -> None:
    """A publish that was repeated after a restart must not be in the history twice."""
    twice = [event(1, 1), event(1, 1) | {"id": "2-2"}]
    ledger.check_history(ROOM, "node", twice, "2-2")
    assert violations(ledger) == ["published twice"]


def test_history_with_a_gap(ledger: Ledger) -> None:
    """A history is consecutive up to the newest event."""
    ledger.check_history(ROOM, "node", [event(1, 1), event(1, 3)], "1-3")
    assert violations(ledger) == ["out of order"]
