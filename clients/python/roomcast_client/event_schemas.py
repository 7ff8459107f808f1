"""The events of an AsyncAPI document of a roomcast server, and what is wrong with an event according to it.

It needs jsonschema: ``pip install 'roomcast-client[testing]'``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

try:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]
except ImportError as error:
    raise ImportError("A recorder needs jsonschema: pip install 'roomcast-client[testing]'") from error

from .errors import Problem

#: An AsyncAPI document, its path, or the URL where a server has it.
Document = Mapping[str, Any] | str | os.PathLike[str]

_ROOM: Final = re.compile(r"([a-z][a-z0-9_]*):([A-Za-z0-9._-]{1,128})")
_PERSONAL: Final = re.compile(r"user:[A-Za-z0-9._~!*'()%-]{1,1200}")


def load(document: Document) -> Mapping[str, Any]:
    """Return the document. Raises ``ValueError`` if it is none of a roomcast server."""
    if isinstance(document, Mapping):
        found: Any = document
    elif isinstance(document, str) and document.startswith(("http://", "https://")):
        found = httpx.get(document).raise_for_status().json()
    else:
        found = json.loads(Path(document).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "asyncapi" not in found or "room.user" not in found.get("channels", {}):
        raise ValueError("This is no AsyncAPI document of a roomcast server; write one with `roomcast schema`.")
    return found


class EventSchemas:
    """Checks events as a server does before it publishes them. ``document`` is what ``load`` returns."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._components: Final[Mapping[str, Any]] = document["components"]
        self._channels: Final[Mapping[str, Any]] = document["channels"]

    def is_stored(self, type: str) -> bool:
        """Return True if events of ``type`` have an id."""
        return bool(self._components["messages"][f"event.{type}"].get("x-stored", True))

    def problems(self, event: Mapping[str, Any], index: int = 0) -> list[Problem]:
        """Return what is wrong with ``event``, which is at ``index`` of its list."""
        type, room, data = str(event.get("type")), str(event.get("room")), event.get("data")
        message = self._components["messages"].get(f"event.{type}")
        if message is None or not message.get("x-publishable", True):
            sentence = f"No plugin declares an event {type!r} that can be published."
            return [Problem(index, "type", sentence, "unknown_type")]
        room_problems = [Problem(index, "room", text, code) for text, code in self._room_problems(type, room)]
        return [*room_problems, *(Problem(index, *found, "invalid_data") for found in self._data_problems(type, data))]

    def _room_problems(self, type: str, room: str) -> Iterator[tuple[str, str]]:
        """Yield the sentence and the code of what is wrong with the room of an event."""
        kind = room.partition(":")[0]
        if not (_PERSONAL if kind == "user" else _ROOM).fullmatch(room):
            yield f"{room!r} is not of the form entity_type:entity_id.", "bad_room"
        elif (channel := self._channels.get(f"room.{kind}")) is None:
            yield f"No plugin declares rooms of type {kind!r}.", "unknown_room_type"
        elif f"event.{type}" not in channel["messages"]:
            yield f"{type} cannot be published in {room}.", "bad_room"

    def _data_problems(self, type: str, data: Any) -> Iterator[tuple[str, str]]:
        """Yield the path and the sentence of what is wrong with the data of an event."""
        schema = {"$ref": f"#/components/schemas/event.{type}", "components": self._components}
        for error in Draft202012Validator(schema).iter_errors(data):
            path = ".".join(map(str, ("data", *error.absolute_path)))
            yield from _describe(path, error)


def _describe(path: str, error: Any) -> Iterator[tuple[str, str]]:
    """Yield the path and a sentence for each field that ``error`` is about."""
    if error.validator == "required":
        yield f"{path}.{error.message.split(chr(39))[1]}", "It is missing."
    elif error.validator == "additionalProperties" and error.validator_value is False:
        for name in error.instance:
            if name not in error.schema.get("properties", {}):
                yield f"{path}.{name}", "There is no such field."
    else:
        yield path, f"{error.message}."
