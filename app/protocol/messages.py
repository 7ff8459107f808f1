"""The JSON messages: parse a client's requests, build replies, events and errors. No I/O.

The builders return JSON as bytes, without a frame. Timestamps are RFC 3339 in UTC, to the second; only ``connected``
has microseconds. The order of events follows from their ids, not from their timestamps.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any, Final

import msgspec
import orjson

from ..errors import Refused
from ..fastpath import build_envelope
from ..fastpath.envelope import precise_timestamp, timestamp
from .user_id import FORM, normalize_personal_room

#: The form of a room's name. Names become part of Redis keys, so globs, braces and line ends are not allowed. Personal
#: rooms have another form, see ``user_id``.
ROOM_ID_PATTERN: Final = "[A-Za-z0-9._-]{1,128}"
ROOM_PATTERN: Final = rf"^[a-z][a-z0-9_]*:{ROOM_ID_PATTERN}$"
_is_room: Final = re.compile(ROOM_PATTERN.replace("$", r"\Z")).match

#: The maximum length of the ``id`` and ``key`` of a request, in characters.
MAX_KEY: Final = 128
#: How many characters of an unknown field's name a refusal repeats.
_MAX_NAME: Final = 200
#: How many events of a room's history a client may ask for at once.
MAX_PAGE: Final = 200
#: The numbers that can be an ``id``: orjson can encode them in the reply.
NUMBERS: Final = range(-(2**63), 2**64)

RequestId = str | int


class Request(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A client's message (docs/protocol.md). The reply repeats ``id``; with a ``key`` it is safe to send again."""

    type: str
    room: str | None = None
    data: dict[str, Any] | None = None
    id: RequestId | None = None
    key: str | None = None


_decode: Final = msgspec.json.Decoder(Request).decode
_dumps: Final = orjson.dumps

#: The JSON type that each field of a message must have, for error sentences.
_EXPECTED: Final = {
    "type": "a string",
    "room": "a string",
    "data": "an object",
    "id": "a string or a whole number",
    "key": "a string",
}
#: The names of msgspec's types in error sentences.
_JSON_TYPES: Final = {
    **{"str": "a string", "int": "a number", "float": "a number with a fraction", "bool": "true or false"},
    **{"array": "an array", "object": "an object"},
}
# msgspec reports an invalid message only as a sentence. These find the field and the cause in it.
_field_of: Final = re.compile(r"at `\$\.([a-z]+)").search
_wrong_type: Final = re.compile(r"Expected `[^`]*`, got `([a-z]+)`").match
_unknown_field: Final = re.compile(r"Object contains unknown field `(.{0,60}).*`", re.DOTALL).match


def parse(payload: bytes | bytearray, known: Container[str] = ()) -> Request:
    """Return the request in ``payload``; raise ``Refused`` with the reason, for the developer of the client.

    The form of the room's name is checked, except for rooms in ``known``, which were checked before: that saves 0.1 us
    for nearly every message. Integers of up to 64 bits keep their exact value. Larger ones are refused when they are
    sent to a client (see ``encode``), so that a command may still use them.
    """
    try:
        request = _decode(payload)
    except msgspec.ValidationError as error:
        raise _bad_envelope(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad_json(error, payload) from None
    except RecursionError:
        raise Refused("bad_json", "The frame is nested too deeply; send flatter JSON.") from None
    room = request.room
    if room is not None and room not in known:
        request.room = normalize_room(room)
    if request.key is not None and not 0 < len(request.key) <= MAX_KEY:
        raise Refused("bad_message", f"key must have 1 to {MAX_KEY} characters.")
    id = request.id
    if id is not None:
        if id.__class__ is str:
            if len(id) > MAX_KEY:
                raise Refused("bad_message", f"id must have at most {MAX_KEY} characters.")
        elif id not in NUMBERS:
            raise Refused("bad_message", "id is a number of more than 64 bits; send a smaller one, or a string.")
    return request


def _bad_json(error: Exception, payload: bytes | bytearray) -> Refused:
    """Translate the ``error`` of msgspec for ``payload`` into a refusal for the developer of the client."""
    problem = str(error)
    if "truncated" in problem:
        # msgspec 0.22 also reports half a surrogate pair this way, if the text ends before the other half could.
        try:
            _decode(bytes(payload) + b"      ")
        except (msgspec.DecodeError, UnicodeDecodeError) as padded:
            problem = str(padded)
    if "surrogate" in problem:
        return Refused(
            "bad_json",
            r"The frame is not valid JSON: it has half a surrogate pair, such as \ud83d without the other half. Do not "
            "cut a text within a character; in JavaScript, text.toWellFormed() replaces such halves.",
        )
    return Refused("bad_json", f"The frame is not valid JSON: {_clause(problem.removeprefix('JSON is malformed: '))}.")


def _bad_envelope(problem: str) -> Refused:
    """Translate msgspec's sentence ``problem`` into a refusal for the developer of the client."""
    if problem.startswith("Expected `object`, got") and "`$" not in problem:
        return Refused("bad_json", 'The frame is not a JSON object; send one like {"type":"ping"}.')
    found = _field_of(problem)
    field = found[1] if found is not None else ""
    if "out of range" in problem and not problem.startswith("Object"):
        return Refused("bad_json", f"The frame has a number that is too large{field and f', in {field}'}.")
    if (wrong := _wrong_type(problem)) is not None and field in _EXPECTED:
        return Refused("bad_message", f"{field} must be {_EXPECTED[field]}, not {_JSON_TYPES.get(wrong[1], wrong[1])}.")
    if "missing required field" in problem:
        return Refused("bad_message", 'type is missing; it says what is wanted, as in {"type":"ping"}.')
    if (unknown := _unknown_field(problem)) is not None:
        return Refused("bad_message", f"{unknown[1]!r} is unknown; a message has type, room, data, id and key.")
    return Refused("bad_message", "The message is wrong; it has type, room, data, id and key.")


def _clause(sentence: str) -> str:
    """Return a library's sentence as part of another one. It is cut, because it may quote a very long field name."""
    return sentence[:1].lower() + sentence[1:200].replace("`", "'")


def refuse_other_fields(request: Request, *fields: str) -> None:
    """Raise ``Refused`` if the ``data`` of a built-in command contains fields other than ``fields``."""
    for field in request.data or ():
        if field not in fields:
            *others, last = fields or ("no data",)
            known = f"{'only ' * bool(fields)}{', '.join(others)}{' and ' * bool(others)}{last}"
            raise Refused(
                "invalid_data",
                f"data.{field[:60]}: {request.type} takes {known}.",
                {field[:_MAX_NAME]: ["Unknown field."]},
            )


def normalize_room(name: str) -> str:
    """Return ``name``; if it is that of a personal room, return its normal form. Raises ``Refused``."""
    if name.startswith("user:"):
        try:
            return normalize_personal_room(name)
        except ValueError:
            raise bad_room(name) from None
    if _is_room(name):
        return name
    raise bad_room(name)


def bad_room(name: str | None) -> Refused:
    """Return the error for a room whose name has the wrong form, or is missing (None)."""
    if name is None:
        return Refused("bad_room", "room is missing; name one like channel:456.")
    if name.startswith("user:"):
        return Refused(
            "bad_room",
            f"room {name[:60]!r} is not of the form user:id, as personal rooms are. Percent-encode the id, for example "
            f"with encodeURIComponent (% itself is %25); it must be {FORM}.",
        )
    return Refused(
        "bad_room",
        f"room {name[:60]!r} is not of the form entity_type:entity_id, as in channel:456 "
        "(letters, digits, dot, dash and underscore, at most 128 in the id).",
    )


def not_joined(room: str | None) -> Refused:
    """Return the error for a command whose sender is not in ``room``, or that names no room (None)."""
    if room is None:
        return bad_room(None)
    if room.startswith("user:"):
        sentence = f"{room} is a personal room, which cannot be joined; send this command in another room."
        return Refused("not_joined", sentence)
    return Refused("not_joined", f"Join {room} first: send join_room, and wait for joined_room.")


def encode(document: Mapping[str, Any]) -> bytes:
    """Return ``document`` as JSON; raise ``Refused`` if JSON cannot represent it, or an integer exceeds 64 bits."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise _unsendable(error) from None


def _unsendable(error: TypeError) -> Refused:
    # orjson reads 1,024 levels, but writes 254.
    problem = _clause(str(error)).replace("recursion limit reached", "it is nested too deeply")
    return Refused("invalid_data", f"data cannot be sent as JSON: {problem}.")


def event(type: str, room: str | None, data: Mapping[str, Any], sender: str | None, key: str | None = None) -> bytes:
    """Build an event without an id, which the broker adds. ``room``, ``sender`` and ``key`` are omitted if None.

    Raises ``Refused`` if an integer exceeds 64 bits, a text is not Unicode, or the data is nested more than 250 levels
    deep. Data that was validated can have such values. Raises ``TypeError`` for a value that JSON does not have, which
    a schema's ``dump`` returned.
    """
    try:
        return build_envelope(type, room, _dumps(data), sender, key)
    except TypeError as error:
        if any(cause in str(error) for cause in ("64-bit", "UTF-8", "Recursion limit")):
            raise _unsendable(error) from None
        raise TypeError(f"the data of event {type} cannot be sent as JSON: {error}") from None


def is_stored(message: bytes) -> bool:
    """Return True if ``message``, an event or a frame with one, is a stored event.

    The id of a stored event is its last field. All other messages end with their timestamp.
    """
    return not message.endswith(b'Z"}')


def about_server(version: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """Build the part of ``connected`` that is the same for all clients, encoded once: ``limits`` and ``server``."""
    return {
        name: orjson.Fragment(_dumps(value)) for name, value in (("limits", limits), ("server", {"version": version}))
    }


def connected(
    user_id: int | str, username: str, about: Mapping[str, Any], resumed: Mapping[str, Any] | None = None
) -> bytes:
    """Build the first message to a client. Its data contains ``about``, which ``about_server`` returns.

    ``resumed``, the state of the user's personal room, is added to its data.
    """
    data = {"message": "Connected successfully", "user_id": user_id, "username": username, **about, **(resumed or {})}
    return _dumps({"type": "connected", "data": data, "timestamp": precise_timestamp()})


def reply(type: str, data: Mapping[str, Any], *, room: str | None = None, id: RequestId | None = None) -> bytes:
    """Build the reply to a request. ``room`` and the request's ``id`` are omitted if they are None."""
    document: dict[str, Any] = {"type": type}
    if id is not None:
        document["id"] = id
    if room is not None:
        document["room"] = room
    document["data"] = data
    document["timestamp"] = timestamp()
    return encode(document)


def pong(id: RequestId | None = None) -> bytes:
    """Build the reply to a ``ping`` command."""
    return reply("pong", {"timestamp": timestamp()}, id=id)


def resync(room: str | None, last_id: str) -> bytes:
    """Build the message that events of ``room`` are lost permanently. None means the user's personal room."""
    data = {"message": "Some events of this room were lost; load its state again.", "last_id": last_id}
    return reply("resync", data, room=room)


def error(refused: Refused, *, room: str | None = None, id: RequestId | None = None) -> bytes:
    """Build the ``error`` message for a refused request."""
    data: dict[str, Any] = {"error": refused.message, "code": refused.code}
    if refused.fields:
        data["fields"] = refused.fields
    return reply("error", data, room=room, id=id)
