"""The files of a new plugin. ``$name`` and the like are replaced; MODULE in a path is the name of the module."""

from __future__ import annotations

from typing import Final

_MODULE: Final = '''\
"""$title: notes that the members of a room leave for each other."""

from typing import Any

from marshmallow import Schema, fields, validate
from roomcast import Context, Plugin

$name = Plugin("$name")

MAX_TEXT = 500


@$name.room("$name", history_size=100)
async def may_join(ctx: Context, room_id: str) -> bool:
    """Allow the users whose token covers the room."""
    return ctx.claims_allow(f"$name:{room_id}")


@$name.event("$name.added", rooms=("$name",))
class Added(Schema):
    """A member of the room has left a note."""

    text = fields.String(required=True, metadata={"description": "The text of the note."})
    author = fields.String(required=True, metadata={"description": "The name of the member."})


class Add(Schema):
    """A note for the members of the room."""

    text = fields.String(
        required=True,
        validate=validate.Length(1, MAX_TEXT),
        metadata={"description": "The text of the note."},
    )


@$name.command("$name.add", Add)
async def add(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Leave a note for all members of the room. The reply has the id of the event."""
    event_id = await ctx.publish(Added, {"text": data["text"], "author": ctx.username})
    return {"event_id": event_id}
'''

_TESTS: Final = '''\
"""The plugin on a real server, with real clients."""

import pytest
from roomcast import Refused

ROOM = "$name:1"


async def test_members_receive_a_note(connect):
    """All members of the room receive the note, and the reply has its id."""
    alice = await connect("alice", rooms=["$name:*"])
    bob = await connect("bob", rooms=["$name:*"])
    await alice.join(ROOM)
    await bob.join(ROOM)
    reply = await alice.command("$name.add", {"text": "Hello"}, room=ROOM)
    event = await bob.next("$name.added")
    assert event["data"] == {"text": "Hello", "author": "alice"}
    assert event["id"] == reply["event_id"]


async def test_others_cannot_join(connect):
    """A user whose token does not cover the room is refused."""
    eve = await connect("eve", rooms=["$name:2"])
    with pytest.raises(Refused) as refused:
        await eve.join(ROOM)
    assert refused.value.code == "forbidden"


async def test_an_empty_note_is_refused(connect):
    """The data is checked before the command runs, so no event is published."""
    alice = await connect("alice", rooms=["$name:*"])
    await alice.join(ROOM)
    with pytest.raises(Refused) as refused:
        await alice.command("$name.add", {"text": ""}, room=ROOM)
    assert refused.value.code == "invalid_data"
    await alice.nothing("$name.added")
'''

_CONFTEST: Final = '''\
"""The fixtures of roomcast: a server with the plugin, and clients."""

import pytest
from $module import $name

pytest_plugins = ["roomcast.testing"]


@pytest.fixture
def roomcast_plugins():
    """The plugin under test, which need not be installed."""
    return [$name]
'''

_PYPROJECT: Final = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$project"
version = "0.1.0"
description = "$title for roomcast"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["roomcast>=$version", "marshmallow>=4,<5"]

[project.optional-dependencies]
test = ["pytest>=8.3", "pytest-asyncio>=1.5"]

[project.entry-points."roomcast.plugins"]
$name = "$module:$name"

[tool.setuptools]
py-modules = ["$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""

_README: Final = """\
# $project

A plugin for [roomcast](https://github.com/roomcast/roomcast). It adds the room type `$name`, the command `$name.add`
and the event `$name.added`.

## Develop

Activate the virtual environment in which roomcast is installed, or make one for this package, and then run:

```sh
pip install -e '.[test]'
pytest
roomcast plugin check
roomcast dev --reload --plugin $module:$name
```

`roomcast plugin check` finds blocking calls, missing descriptions and unlimited lists. `roomcast dev` prints a link to
a console with forms for the commands, and loads the plugin again when a file changes.

## Install

Run `pip install .` in the environment of the server, and restart the server. `roomcast plugins $name` shows what the
plugin adds.
"""

_GITIGNORE: Final = """\
.venv/
__pycache__/
*.egg-info/
build/
dist/
.pytest_cache/
"""

#: The text of each file, by its path.
FILES: Final = {
    "MODULE.py": _MODULE,
    "tests/conftest.py": _CONFTEST,
    "tests/test_MODULE.py": _TESTS,
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    ".gitignore": _GITIGNORE,
}
