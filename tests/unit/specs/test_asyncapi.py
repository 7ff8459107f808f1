"""Tests of ``specs.asyncapi``: the document is complete and its examples are valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.protocol.messages import MAX_KEY, parse
from roomcast.registry import Registry
from roomcast.specs.asyncapi import asyncapi, frame_example
from roomcast.specs.catalog import catalog
from roomcast.specs.core_frames import CORE_COMMANDS, FRAMES
from roomcast.specs.openapi import openapi


def references(document: Any) -> Iterator[str]:
    """Yield every ``$ref`` in the document."""
    if isinstance(document, dict):
        if isinstance(document.get("$ref"), str):
            yield document["$ref"]
        for value in document.values():
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    """Return the target of a reference; raise ``KeyError`` if there is none."""
    for key in reference.removeprefix("#/").split("/"):
        document = document[key.replace("~1", "/")]
    return document


@pytest.mark.parametrize("make", [asyncapi, openapi])
def test_every_reference_has_a_target(zoo_registry: Registry, make: Any) -> None:
    """Every reference points to a part of the document."""
    document = make(zoo_registry)
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        resolve(document, reference)


def test_all_frames_and_rooms_are_in_the_document(zoo_registry: Registry) -> None:
    """Each command, event, reply and room type of each plugin is a message, an operation and in its channels."""
    document = asyncapi(zoo_registry, "https://cast.example:8443")
    messages = document["components"]["messages"]
    for command in (*zoo_registry.commands, *CORE_COMMANDS):
        assert document["operations"][f"command.{command}"]["action"] == "receive"
    for event in zoo_registry.events:
        assert document["operations"][f"event.{event}"]["action"] == "send"
    for frame in (*FRAMES, "sent", "fed"):
        assert f"frame.{frame}" in messages
    assert set(document["channels"]["socket"]["messages"]) == set(messages)
    assert "event.animal.fed" in document["channels"]["room.cage"]["messages"]
    assert "event.animal.fed" not in document["channels"]["room.channel"]["messages"]
    assert set(document["channels"]["room.user"]["messages"]) == {"event.notification.new"}
    assert document["servers"]["this"]["host"] == "cast.example:8443"
    assert document["servers"]["this"]["protocol"] == "wss"
    assert asyncapi(zoo_registry, "http://localhost/rt")["servers"]["this"]["pathname"] == "/rt"
    assert [close["code"] for close in document["x-close-codes"]] == [close.code for close in CLOSES]
    assert set(document["x-error-codes"]) == set(ERROR_CODES)


def test_the_limit_of_keys_is_that_of_the_server(zoo_registry: Registry) -> None:
    """Each command may have a key of at most as many characters as the server accepts."""
    for name, message in asyncapi(zoo_registry)["components"]["messages"].items():
        if name.startswith("command."):
            assert message["payload"]["properties"]["key"]["maxLength"] == MAX_KEY


def test_the_access_of_commands(zoo_registry: Registry) -> None:
    """Each command of a plugin states who may use it. A command for members requires a room."""
    messages = asyncapi(zoo_registry)["components"]["messages"]
    for command, access, requires_room in (
        ("animal.feed", "member", True),
        ("animal.watch", "anyone", False),
        ("send_message", "member", True),
    ):
        message = messages[f"command.{command}"]
        assert message["x-access"] == access
        assert ("room" in message["payload"]["required"]) == requires_room
    assert "x-access" not in messages["command.ping"] | messages["event.animal.fed"]


def test_examples_are_valid(zoo_registry: Registry) -> None:
    """The server accepts each example: its envelope, and its data."""
    for entry in catalog(zoo_registry):
        frame = frame_example(entry)
        if entry.kind == "command":
            assert parse(json.dumps(frame).encode()).type == entry.type
            if entry.type in zoo_registry.commands:
                zoo_registry.commands[entry.type].validator.load(frame["data"])
        if entry.kind == "event":
            zoo_registry.events[entry.type].validator.event(frame["data"])
