"""How roomcast.js compares event ids."""

from __future__ import annotations

import json
import subprocess

import pytest
from node_tools import NODE, TIMEOUT
from paths import ROOT

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node 22")

EARLY, LATE = "1795979575361884", "1795979575361999"


def are_newer(pairs: list[tuple[str, str | None]]) -> list[bool]:
    """Return for each pair of an id and a position if the id is newer, according to roomcast.js."""
    module = (ROOT / "static" / "src" / "frames.js").as_uri()
    code = f"import {{ isNewer }} from {json.dumps(module)};" + (
        "console.log(JSON.stringify(JSON.parse(process.argv[1]).map(([id, at]) => isNewer(id, at ?? undefined))));"
    )
    command = [str(NODE), "--input-type=module", "-e", code, json.dumps(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    found: list[bool] = json.loads(done.stdout)
    return found


def test_newer_ids() -> None:
    """Ids sort by epoch and offset, across the epochs of a room. Other epochs of an embedded broker are newer."""
    newer = [
        (f"{EARLY}-1", None),
        (f"{EARLY}-2", f"{EARLY}-1"),
        (f"{EARLY}-10", f"{EARLY}-9"),
        (f"{LATE}-3", f"{EARLY}-2"),
        (f"{LATE}-1", f"{EARLY}-2"),  # the room has lost its history
        (f"{EARLY}-1", f"{LATE}-0"),  # the room had no event, and the clock of Redis went back
        ("mfrgg1-1", "orsxg1-5"),
    ]
    older = [
        (f"{EARLY}-1", f"{EARLY}-1"),
        (f"{EARLY}-9", f"{EARLY}-10"),
        (f"{EARLY}-2", f"{LATE}-3"),
        ("mfrgg1-4", "mfrgg1-5"),
    ]
    assert are_newer([*newer, *older]) == [True] * len(newer) + [False] * len(older)
