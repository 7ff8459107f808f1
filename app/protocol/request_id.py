"""Find the ``id`` of a request that was refused, so that the error can repeat it.

A client matches errors to its requests by their ids. The text of a refused request need not be valid JSON: it may
have half a surrogate pair or NaN, be nested too deeply, end too early, or go on after the object. ``find`` reads as
much of it as it can. This runs for errors only, and its cost is bounded, because a hostile client can cause errors.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import orjson

from .messages import MAX_KEY, NUMBERS, RequestId

#: How much of a text that is not valid JSON is read, in bytes. The default of ``WS_MAX_MESSAGE_SIZE`` is not larger.
#: Texts of this size that are made to be slow take 2.4 ms.
_MAX_SCAN: Final = 131_072
#: How many members of the object, and runs of brackets within them, are read.
_MAX_STEPS: Final = 2_048

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_object_start: Final = re.compile(rb"\s*+\{").match
#: A member with its name and its value. The value of an object or array is empty: its bracket is the next byte. Other
#: values must be followed by a delimiter, because they may be cut off.
_member: Final = re.compile(
    rb"\s*+(%b)\s*+:\s*+(?:(%b|[^\s\"{}\[\],:]++)(?=[\s,}])|(?=[{\[]))" % (_STRING, _STRING), re.DOTALL
).match
_comma: Final = re.compile(rb"\s*+,").match
#: The next run of opening or of closing brackets that are not within strings.
_brackets: Final = re.compile(rb'(?:[^"{}\[\]]++|%b)*+([{\[]++|[}\]]++)' % _STRING, re.DOTALL).match


class _OnlyId(msgspec.Struct, gc=False):
    id: RequestId | None = None


#: Skips all other fields, in a tenth of the time that it takes to read them.
_decode: Final = msgspec.json.Decoder(_OnlyId).decode


def find(payload: bytes | bytearray, max_scan: int = _MAX_SCAN) -> RequestId | None:
    """Return the ``id`` at the top level of a refused message, or None if there is none that an error can repeat.

    ``max_scan`` is how many bytes are searched of a text that is not valid JSON.
    """
    try:
        return _valid(_decode(payload).id)
    except msgspec.ValidationError:  # it is not an object, or its id is neither a text nor a whole number
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _scan(payload, max_scan)


def _valid(id: object) -> RequestId | None:
    if isinstance(id, str):
        return id if len(id) <= MAX_KEY else None
    return id if type(id) is int and id in NUMBERS else None


def _scan(payload: bytes | bytearray, max_scan: int = _MAX_SCAN) -> RequestId | None:
    """Return the first valid ``id`` of an object in a text that is not valid JSON."""
    steps = 0
    found = _object_start(payload)
    while found is not None and steps < _MAX_STEPS:
        steps += 1
        member = _member(payload, found.end(), max_scan)
        if member is None:
            return None
        name, value = member.groups()
        end = member.end()
        if value is None:
            skipped, end = _skip(payload, end, max_scan, _MAX_STEPS - steps)
            steps += skipped
        elif _loads(name) == "id":
            return _valid(_loads(value))
        found = _comma(payload, end, max_scan)
    return None


def _loads(token: bytes) -> object:
    """Return the value of a string or number, or None if it is not valid."""
    try:
        value: object = orjson.loads(token)
    except ValueError:
        return None
    return value


def _skip(payload: bytes | bytearray, start: int, max_scan: int, max_steps: int) -> tuple[int, int]:
    """Skip the object or array at ``start``. Return the number of steps taken, and the end.

    The end is that of the payload if the object or array has none, or takes more than ``max_steps``.
    """
    depth, end = 0, start
    for step in range(max_steps):
        run = _brackets(payload, end, max_scan)
        if run is None:
            break
        brackets, end = run[1], run.end()
        if brackets[0] in b"{[":
            depth += len(brackets)
        elif depth > len(brackets):
            depth -= len(brackets)
        else:  # the run may also close the object that contains this one
            return step + 1, end - len(brackets) + depth
    return max_steps, len(payload)
