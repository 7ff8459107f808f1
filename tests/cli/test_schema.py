"""``roomcast schema``: its formats, and the comparison with an earlier document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import refusal, roomcast


@pytest.mark.slow
def test_each_format_is_printed_and_breaking_changes_are_listed(tmp_path: Path) -> None:
    """The output is valid in each format. With ``--against``, breaking changes are listed and set the exit status."""
    printed = roomcast("schema")
    assert printed.returncode == 0
    document = json.loads(printed.stdout)
    assert document["asyncapi"] == "3.0.0"
    assert json.loads(roomcast("schema", "--format", "openapi").stdout)["openapi"] == "3.1.0"
    assert "declare module" in roomcast("schema", "--format", "typescript").stdout
    assert "class TaskCreatedData(TypedDict)" in roomcast("schema", "--format", "python").stdout
    earlier = tmp_path / "earlier.json"
    earlier.write_text(printed.stdout)
    assert roomcast("schema", "--against", str(earlier)).returncode == 0
    listed = roomcast("schema", "--against", str(earlier), "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, {"ok": True, "changes": []})
    assert "--json works only with --against" in roomcast("schema", "--json").stderr
    document["components"]["messages"]["event.task.vanished"] = {"payload": {"properties": {}}}
    earlier.write_text(json.dumps(document))
    broken = roomcast("schema", "--against", str(earlier))
    assert (broken.returncode, broken.stdout.strip()) == (1, "event task.vanished: is gone")
    listed = roomcast("schema", "--against", str(earlier), "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (
        1,
        {"ok": False, "changes": ["event task.vanished: is gone"]},
    )
    earlier.write_text("{}")
    assert "is not what `roomcast schema" in refusal("schema", "--against", str(earlier))
