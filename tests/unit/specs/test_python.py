"""Tests of ``specs.python``: the generated module is valid, formatted and strictly typed, and refuses wrong data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from marshmallow import Schema, fields, validate
from python_client import CLIENT
from serving import registry_with

from roomcast import Plugin
from roomcast.registry import Registry
from roomcast.specs.python import python
from roomcast_client import Event

odd = Plugin("odd")


class Child(Schema):
    """A child, "quoted" """

    class_ = fields.String(data_key="class", required=True)
    children = fields.List(fields.Nested(lambda: Child()))


@odd.event("odd.names")
class Names(Schema):
    r"""Names that are no identifiers, a \ and a triple quote: \"\"\""""

    from_ = fields.String(data_key="from", required=True, metadata={"description": 'A "sender"\nor not'})
    dashed = fields.Nested(Child, data_key="a-b", allow_none=True)
    choice = fields.String(validate=validate.OneOf(['"', "\\", "ä", "\n"]))
    one = fields.Float(validate=validate.OneOf([1.5, 2]))
    anything = fields.Raw()


@odd.event("odd_names", stored=False)
class Empty(Schema):
    """No fields at all."""


@odd.event("any")
class Colliding(Schema):
    """Its name is one of typing."""

    values = fields.Dict(keys=fields.String(), values=fields.List(fields.Integer(allow_none=True)))
    inner = fields.Nested(Schema.from_dict({"x": fields.Integer(required=True)}))


@pytest.fixture(scope="module")
def odd_registry() -> Registry:
    """Return a registry with schemas that are hard to express."""
    return registry_with(odd)


def load(text: str, folder: Path) -> ModuleType:
    """Import the generated module."""
    path = folder / "events.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("generated_events", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mypy(folder: Path, *files: str) -> str:
    """Return what mypy --strict says about files."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(CLIENT / ".mypy_cache"), *files],
        cwd=folder,
        env={"MYPYPATH": str(CLIENT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def test_events_have_a_type_of_data_and_of_the_frame(zoo_registry: Registry, tmp_path: Path) -> None:
    """Required and optional fields, nested objects, lists, choices and dicts have their types."""
    module = load(python(zoo_registry), tmp_path)
    data = get_type_hints(module.AnimalFedData, include_extras=True)
    assert {name: str(hint).replace("typing.", "").replace("generated_events.", "") for name, hint in data.items()} == {
        "animal": "<class 'str'>",
        "kilos": "<class 'float'>",
        "keeper": "<class 'AnimalFedDataKeeper'>",
        "treats": "NotRequired[list[Literal['nut', 'apple']]]",
        "at": "NotRequired[str]",
        "once_a_day": "NotRequired[bool]",
        "notes": "NotRequired[dict[str, int]]",
    }
    assert module.AnimalFedData.__required_keys__ == {"animal", "kilos", "keeper"}
    assert module.AnimalFed.__optional_keys__ == {"room", "sender", "key"}
    assert module.Typing.__optional_keys__ == {"room", "sender"} and "id" not in module.Typing.__annotations__
    assert "room" not in module.NotificationNew.__annotations__
    assert module.AnimalFeedCommand.__required_keys__ == {"animal"}
    assert "animal.fed" in module.EventType.__args__ and "animal.feed" in module.CommandType.__args__
    assert module.event("animal.fed", "cage:1", {"animal": "a"}, key="k") == Event(
        "animal.fed", "cage:1", {"animal": "a"}, None, "k"
    )


def test_what_only_roomcast_publishes_has_no_overload(zoo_registry: Registry) -> None:
    """``user_joined`` can be received, and not published."""
    received, _, published = python(zoo_registry).partition("class Publisher(Protocol)")
    assert "class UserJoined(TypedDict)" in received
    assert "user_joined" not in published and published.count('type: Literal["animal.fed"]') == 3


def test_names_that_are_hard_to_express(odd_registry: Registry, tmp_path: Path) -> None:
    """Keywords, dashes, quotes, a schema that contains itself, and names that collide."""
    module = load(python(odd_registry), tmp_path)
    assert set(module.OddNamesData.__annotations__) == {"from", "a-b", "choice", "one", "anything"}
    assert module.OddNamesData2.__annotations__ == {}
    assert set(module.Any2.__annotations__) >= {"type", "data"}
    choice = get_type_hints(module.OddNamesData)["choice"]
    assert choice.__args__ == ('"', "\\", "ä", "\n")


@pytest.mark.slow
def test_the_module_is_strictly_typed_and_formatted(
    zoo_registry: Registry, odd_registry: Registry, tmp_path: Path
) -> None:
    """mypy --strict finds nothing, and ruff would not format the module differently."""
    for name, registry in (("zoo", zoo_registry), ("odd", odd_registry)):
        (tmp_path / f"{name}.py").write_text(python(registry), encoding="utf-8")
    assert "Success" in mypy(tmp_path, "zoo.py", "odd.py")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--no-cache", "--diff", "zoo.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


RIGHT = """
from typing import cast, assert_type
from roomcast_client import AsyncRoomcast, Roomcast
import events

roomcast: events.Publisher = Roomcast("http://x", "key")
roomcast.publish("task.created", "project:1", {"task_id": 1, "title": "A"}, sender="alice")
client = Roomcast("http://x", "key")
client.batch([events.event("task.created", "project:1", {"task_id": 1, "title": "A"})])
later: events.AsyncPublisher = AsyncRoomcast("http://x", "key")
for frame in client.history("project:1").events:
    event = cast(events.AnyEvent, frame)
    if event["type"] == "task.created":
        assert_type(event["data"]["title"], str)
"""
WRONG: dict[str, Any] = {
    'roomcast.publish("task.created", "project:1", {"task_id": 1})': "No overload variant",
    'roomcast.publish("task.creatd", "project:1", {"task_id": 1, "title": "A"})': "No overload variant",
    'roomcast.publish("user_joined", "project:1", {"username": "a", "user_id": 1})': "No overload variant",
    'events.event("task.created", "project:1", {"task_id": [], "title": "A"})': "No overload variant",
    'event["data"]["titel"]': "error:",
}


@pytest.mark.slow
def test_wrong_data_is_found_by_mypy(zoo_registry: Registry, tmp_path: Path) -> None:
    """Right calls pass. Each wrong line is an error, and no other line is."""
    (tmp_path / "events.py").write_text(python(zoo_registry), encoding="utf-8")
    (tmp_path / "right.py").write_text(RIGHT)
    assert "Success" in mypy(tmp_path, "right.py")
    (tmp_path / "wrong.py").write_text(RIGHT + "\n".join(WRONG) + "\n")
    found = mypy(tmp_path, "wrong.py")
    first = RIGHT.count("\n") + 1
    for number, (line, message) in enumerate(WRONG.items(), first):
        assert any(f"wrong.py:{number}: " in said and message in said for said in found.splitlines()), (line, found)
    assert f"wrong.py:{first - 1}:" not in found
