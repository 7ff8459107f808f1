"""AsyncAPI, OpenAPI and TypeScript of what a server speaks: whole, true to the schemas, and foreign plugins in them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import refusal, roomcast

from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.protocol.messages import parse
from roomcast.registry import Registry
from roomcast.specs.asyncapi import asyncapi, frame_example
from roomcast.specs.catalog import catalog
from roomcast.specs.compare import breaking
from roomcast.specs.examples import example
from roomcast.specs.openapi import openapi
from roomcast.specs.typescript import typescript


def references(document: Any) -> Iterator[str]:
    """Every ``$ref`` in it."""
    if isinstance(document, dict):
        if isinstance(document.get("$ref"), str):
            yield document["$ref"]
        for value in document.values():
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    """What a reference points to; fails if that is nothing."""
    for step in reference.removeprefix("#/").split("/"):
        document = document[step.replace("~1", "/")]
    return document


@pytest.mark.parametrize("make", [asyncapi, openapi])
def test_every_reference_leads_somewhere(everything: Registry, make: Any) -> None:
    """No reference points to what is not in the document."""
    document = make(everything)
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        resolve(document, reference)


def test_everything_that_is_spoken_is_in_it(everything: Registry) -> None:
    """Each command, event, answer and room of each plugin is a message, an operation and where it belongs."""
    document = asyncapi(everything, "cast.example:8443", secure=True)
    messages = document["components"]["messages"]
    for command in (*everything.commands, "join_room", "leave_room", "ping", "refresh_token"):
        assert document["operations"][f"command.{command}"]["action"] == "receive"
    for event in everything.events:
        assert document["operations"][f"event.{event}"]["action"] == "send"
    for frame in ("connected", "joined_room", "left_room", "pong", "token_refreshed", "resync", "error", "sent", "fed"):
        assert f"frame.{frame}" in messages
    assert set(document["channels"]["socket"]["messages"]) == set(messages)
    assert "event.animal.fed" in document["channels"]["room.cage"]["messages"]
    assert "event.animal.fed" not in document["channels"]["room.channel"]["messages"]
    assert set(document["channels"]["room.user"]["messages"]) == {"event.notification.new"}
    assert document["servers"]["this"]["host"] == "cast.example:8443"
    assert document["servers"]["this"]["protocol"] == "wss"
    assert [close["code"] for close in document["x-close-codes"]] == [close.code for close in CLOSES]
    assert set(document["x-error-codes"]) == set(ERROR_CODES)


def test_examples_are_accepted(everything: Registry) -> None:
    """Each example is one that the server itself would take: the envelope's, and the data's by its schema."""
    for entry in catalog(everything):
        frame = frame_example(entry)
        if entry.kind == "command":
            assert parse(json.dumps(frame).encode()).type == entry.type
            if entry.type in everything.commands:
                everything.commands[entry.type].validator.load(frame["data"])
        if entry.kind == "event":
            everything.events[entry.type].validator.event(frame["data"])


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "string", "minLength": 9}, "a b ca b c"[:9]),
        ({"type": "integer", "minimum": 5, "maximum": 7}, 5),
        ({"type": "number", "maximum": -3}, -3),
        ({"enum": [None, "x"]}, "x"),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "array", "minItems": 2, "items": {"const": 1}}, [1, 1]),
        ({"default": "given", "type": "string"}, "given"),
    ],
)
def test_an_example_keeps_the_bounds(schema: dict[str, Any], found: object) -> None:
    """What an example is made of is within the schema's bounds."""
    made = example(schema, "a_b_c")
    assert made == found or (isinstance(found, str) and len(str(made)) == len(found))


def test_openapi_is_valid(everything: Registry) -> None:
    """By the rules of OpenAPI 3.1 the document is valid, and has every path of the API."""
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = openapi(everything, "https://cast.example")
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert "/api/v1/rooms/{room}/history" in document["paths"]
    assert "animal.fed" in document["components"]["schemas"]
    assert "user_joined" not in document["components"]["schemas"]


def test_typescript_declares_what_is_spoken(everything: Registry) -> None:
    """Events and commands of every plugin are declared with their fields; what the client knows by itself is not."""
    text = typescript(everything, "roomcast")
    assert 'declare module "roomcast" {' in text
    assert '"animal.fed": Frame<"animal.fed", {' in text
    assert re.search(r"kilos: number;", text)
    assert re.search(r'treats\?: \("nut" \| "apple"\)\[\];', text)
    assert re.search(r"notes\?: Record<string, number>;", text)
    assert re.search(r'"animal.feed": \{\n      data: \{\n        animal: string;', text)
    assert '"send_message"' not in text
    assert '"user_joined"' not in text


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``document`` in which the value at the ``path`` (by slashes) is another, or with None is gone."""
    made = inner = copy.deepcopy(document)
    *steps, last = path.split("/")
    for step in steps:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return made


_COMMAND = "components/schemas/command.animal.feed"
_EVENT = "components/schemas/event.animal.fed"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("components/messages/event.animal.fed", None, "event animal.fed: is gone"),
        (f"{_EVENT}/properties/kilos", None, "event animal.fed: data.kilos is gone"),
        (
            f"{_EVENT}/properties/kilos/type",
            "string",
            "event animal.fed: data.kilos was integer or number and is string",
        ),
        (f"{_EVENT}/required", ["animal"], "event animal.fed: data.keeper may be missing now"),
        (f"{_COMMAND}/required", ["animal", "food"], "command animal.feed: data.food is required now"),
        (
            f"{_COMMAND}/properties/food/enum",
            ["nut"],
            "command animal.feed: data.food may not be apple or hay any more",
        ),
        (
            f"{_COMMAND}/properties/amount/maximum",
            5,
            "command animal.feed: data.amount has a maximum of 5 now, it was 10",
        ),
        (f"{_COMMAND}/properties/food", None, "command animal.feed: data.food is gone"),
    ],
)
def test_breaking_changes_are_found(everything: Registry, path: str, value: Any, said: str) -> None:
    """Each kind of change that breaks clients is said in a line."""
    old = asyncapi(everything)
    assert said in breaking(old, changed(old, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{_EVENT}/properties/more", {"type": "string"}),
        (f"{_COMMAND}/properties/more", {"type": "string"}),
        (f"{_COMMAND}/required", []),
        (f"{_COMMAND}/properties/amount/maximum", 50),
        (f"{_COMMAND}/properties/food/enum", ["nut", "apple", "hay", "cake"]),
        ("components/messages/event.more", {"name": "more", "payload": {"properties": {}}}),
    ],
)
def test_other_changes_are_not(everything: Registry, path: str, value: Any) -> None:
    """What clients need not know of breaks nothing."""
    old = asyncapi(everything)
    assert breaking(old, changed(old, path, value)) == []


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    """The command prints each format; against an earlier output it says what breaks, and its status tells."""
    printed = roomcast("schema")
    assert printed.returncode == 0
    document = json.loads(printed.stdout)
    assert document["asyncapi"] == "3.0.0"
    assert json.loads(roomcast("schema", "--format", "openapi").stdout)["openapi"] == "3.1.0"
    assert "declare module" in roomcast("schema", "--format", "typescript").stdout
    earlier = tmp_path / "earlier.json"
    earlier.write_text(printed.stdout)
    assert roomcast("schema", "--against", str(earlier)).returncode == 0
    document["components"]["messages"]["event.task.vanished"] = {"payload": {"properties": {}}}
    earlier.write_text(json.dumps(document))
    broken = roomcast("schema", "--against", str(earlier))
    assert (broken.returncode, broken.stdout.strip()) == (1, "event task.vanished: is gone")
    earlier.write_text("{}")
    assert "is not what `roomcast schema" in refusal("schema", "--against", str(earlier))
