"""Reads and checks the parameters of API requests: path, query and body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from ...broker.base import UserId
from ...errors import Refused
from ...protocol.user_id import FORM, decode_percent, parse_user_id
from ..app_state import GATEWAY
from ..json_errors import Failure
from .auth import check_room

_decode: Final = msgspec.json.Decoder().decode


def room_in_path(request: web.Request) -> str:
    """Return the normal name of the room in the path.

    Raises ``Refused`` if it is invalid, and ``Failure`` if the request's key does not allow it.
    """
    _check_encoding(request, "bad_room")
    room = request.app[GATEWAY].publishing.check_room(request.match_info["room"])
    check_room(request, room)
    return room


def user_id_in_path(request: web.Request) -> UserId:
    """Return the user id in the path, as an int if it is a decimal number. Raises ``Refused``."""
    _check_encoding(request, "bad_user")
    text = request.match_info["user_id"]
    try:
        return parse_user_id(text)
    except ValueError:
        raise Refused("bad_user", f"{text[:60]!r} is not a user id, which is {FORM}.") from None


def _check_encoding(request: web.Request, code: str) -> None:
    """Raise ``Refused`` if the path is not percent-encoded UTF-8.

    aiohttp does not decode what is malformed, so ``%FF`` would be taken for the text of these three characters.
    """
    try:
        decode_percent(request.rel_url.raw_path)
    except ValueError:
        sentence = "The path is not percent-encoded UTF-8; encode each part of it, for example with encodeURIComponent."
        raise Refused(code, sentence) from None


def query_with(request: web.Request, *names: str) -> Mapping[str, str]:
    """Return the query; raise ``Failure`` if it has other parameters than ``names``, or one of them twice."""
    query = request.rel_url.query
    for name in query:
        if name not in names or len(query.getall(name)) > 1:
            allowed = f"may have {' and '.join(names)}, each once" if names else "must be empty"
            raise Failure("bad_query", f"{name[:60]!r}: the query {allowed}.")
    return query


async def read_body(request: web.Request) -> bytes:
    """Return the body; raise ``Failure`` if it is too large, too slow or broken in transit."""
    limit = request.client_max_size
    sentence = f"The body is larger than {limit} bytes; publish fewer events at once."
    if (request.content_length or 0) > limit:
        raise Failure("body_too_large", sentence)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Failure("body_too_large", sentence) from None
    except web.RequestPayloadError:
        raise Failure("bad_body", "The body is broken or ended early; send it again.") from None


def decode_json(body: bytes) -> Any:
    """Return the JSON in ``body``; raise ``Failure``.

    Integers stay exact, so that an integer that cannot be published is refused by its field later.
    """
    try:
        return _decode(body)
    except UnicodeDecodeError as error:
        raise Failure("bad_json", f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise Failure("bad_json", "The body is nested too deeply; send flatter JSON.") from None
    except msgspec.DecodeError as error:
        raise Failure("bad_json", f"The body is not valid JSON: {_with_line(body, str(error))}.") from None


def _with_line(body: bytes, problem: str) -> str:
    """Return msgspec's error message, with the line and the column in place of the byte's position."""
    problem = problem.removeprefix("JSON is malformed: ")
    problem = problem[:1].lower() + problem[1:]
    found = re.search(r" \(byte ([0-9]+)\)", problem)
    if found is None:
        return problem
    before = body[: int(found[1])]
    line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
    return problem.replace(found[0], f" at line {line}, column {column}")
