"""The HTTP API for backends: publish, see rooms, members and history, kick, disconnect, revoke. ``API_KEY`` opens it.

The codes of errors are those of error frames (``errors.ERROR_CODES``) and of ``web.errors.STATUS``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from math import floor
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from ...auth.user_id import parse_user_id
from ...context import decode
from ...errors import Refused
from ...gateway.gateway import Gateway
from ..app_keys import GATEWAY
from ..json_errors import Failure, answer, in_json
from ..pages.fallback import methods
from . import batch
from .auth import keyed
from .idempotency import once

if TYPE_CHECKING:
    from ...broker.base import Publication, UserId

log = logging.getLogger("roomcast.api")

ROOT: Final = "/api/v1"
MAX_HISTORY: Final = 1000
#: So far ahead of this node's clock may be whose tokens are revoked, in seconds.
AHEAD: Final = 60
#: How long the rest of a body that is too large is read and thrown away, in seconds.
LINGER: Final = 2.0

_decode: Final = msgspec.json.Decoder().decode


def add(app: web.Application) -> None:
    """Give ``app`` the API's routes; whatever else is asked for under ``ROOT`` is answered in JSON, too."""
    router = app.router
    router.add_post(f"{ROOT}/events", publish)
    router.add_get(f"{ROOT}/rooms", rooms)
    # Anything but a slash: a name that is no room's is to be told so.
    room = f"{ROOT}/rooms/{{room:[^/]+}}"
    router.add_get(f"{room}/members", members)
    router.add_get(f"{room}/history", history)
    router.add_delete(f"{room}/members/{{user_id:[^/]+}}", kick)
    router.add_delete(f"{ROOT}/users/{{user_id:[^/]+}}/connections", disconnect)
    router.add_delete(f"{ROOT}/users/{{user_id:[^/]+}}/tokens", revoke_all)
    router.add_delete(f"{ROOT}/users/{{user_id:[^/]+}}/tokens/{{jti:[^/]+}}", revoke_one)
    router.add_route("*", f"{ROOT}/{{rest:.*}}", nothing_here)


# Publishing.


@keyed
async def publish(request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/v1/events``: publish one event or a list, all or none.

    The answer is ``{"id": …}`` for one event and ``{"ids": […]}`` for a list, an empty one included. A repeat of an
    ``Idempotency-Key`` within 5 minutes gets the first answer, marked by a header ``Idempotency-Replayed``.
    """
    gateway = request.app[GATEWAY]
    key = _idempotency_key(request)
    body = await _body(request)
    given = _json(body)
    publications = batch.prepare(gateway, given, key)

    async def work() -> dict[str, Any]:
        ids = await _publish(gateway, publications)
        return {"ids": ids} if isinstance(given, list) else {"id": ids[0]}

    if key is None:
        return answer(await work())
    first, document = await once(gateway.broker, key, body, work, gateway.settings.handler_timeout)
    return answer(document, headers=None if first else {"Idempotency-Replayed": "true"})


async def _publish(gateway: Gateway, publications: list[Publication]) -> list[str]:
    ids = await gateway.broker.publish_many(publications)
    gateway.counters.http_events += len(ids)
    return ids


def _idempotency_key(request: web.Request) -> str | None:
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch("[ -~]{1,128}", given[0]):
        raise Failure("bad_idempotency_key", "Idempotency-Key must be given once, with 1 to 128 printable characters.")
    return given[0]


async def _body(request: web.Request) -> bytes:
    """Return the body; raise ``Failure`` if it is too large, too slow or broken on its way."""
    limit, seconds = request.client_max_size, request.app[GATEWAY].settings.handshake_timeout
    sentence = f"The body is larger than {limit} bytes; publish fewer events at once."
    if (request.content_length or 0) > limit:
        raise Failure("body_too_large", sentence, close=LINGER)
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Failure("body_too_large", sentence, close=LINGER) from None
    except TimeoutError:
        raise Failure("body_too_slow", f"The body did not arrive within {seconds:g} s.", close=0) from None
    except web.RequestPayloadError as error:
        raise Failure("bad_body", f"The body is broken: {str(error) or 'it ended early'}.", close=0) from None


def _json(body: bytes) -> Any:
    """Return what ``body`` says; integers are kept exact, so that one that cannot be sent on is refused later."""
    try:
        return _decode(body)
    except UnicodeDecodeError as error:
        raise Failure("bad_json", f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise Failure("bad_json", "The body is nested too deeply; send flatter JSON.") from None
    except msgspec.DecodeError as error:
        raise Failure("bad_json", f"The body is not valid JSON: {_where(body, str(error))}.") from None


def _where(body: bytes, problem: str) -> str:
    """Return msgspec's words with the line and column in place of the byte, where they name one."""
    problem = problem.removeprefix("JSON is malformed: ")
    problem = problem[:1].lower() + problem[1:]
    found = re.search(r" \(byte ([0-9]+)\)", problem)
    if found is None:
        return problem
    before = body[: int(found[1])]
    line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
    return problem.replace(found[0], f" at line {line}, column {column}")


# Rooms and users.


@keyed
async def rooms(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/v1/rooms``: the rooms with members, by name, and how many users each has."""
    found = await request.app[GATEWAY].broker.rooms()
    return answer({"rooms": [{"room": room, "members": count} for room, count in sorted(found.items())]})


@keyed
async def members(request: web.Request) -> web.StreamResponse:
    """Answer ``GET …/members``: the users in a room in the order they came, with their numbers of connections."""
    room = _room(request)
    found = await request.app[GATEWAY].broker.members(room)
    return answer({"room": room, "members": [member._asdict() for member in found]})


@keyed
async def history(request: web.Request) -> web.StreamResponse:
    """Answer ``GET …/history?since=&limit=``: the oldest events after an id, or the newest ones, as clients get them.

    ``more`` is true if further events came after the last one given. ``recovered`` is false, and there are no events,
    if the history does not reach back to ``since``.
    """
    room = _room(request)
    since, limit = _query(request)
    found = await request.app[GATEWAY].broker.history(room, since, limit)
    last_id = found.last_id
    more = bool(found.events) and found.events[-1].id != last_id
    events = [decode(event) for event in found.events]
    return answer({"room": room, "events": events, "recovered": found.recovered, "last_id": last_id, "more": more})


def _query(request: web.Request) -> tuple[str | None, int | None]:
    query = _only(request, "since", "limit")
    limit = query.get("limit")
    if limit is None:
        return query.get("since"), None
    if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_HISTORY:
        raise Failure("bad_query", f"limit is {limit[:60]!r}; it must be a number from 1 to {MAX_HISTORY}.")
    return query.get("since"), int(limit)


def _only(request: web.Request, *names: str) -> Mapping[str, str]:
    """Return the query if it has no other parameters than ``names``, and none of them twice."""
    query = request.rel_url.query
    for name in query:
        if name not in names or len(query.getall(name)) > 1:
            allowed = f"may have {' and '.join(names)}, each once" if names else "must be empty"
            raise Failure("bad_query", f"{name[:60]!r}: the query {allowed}.")
    return query


@keyed
async def kick(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/members/{user_id}``: take a user out of a room, and say of how many connections.

    A user who is not there is no error: 0. Nothing keeps the user from joining again.
    """
    gateway, room, user_id = request.app[GATEWAY], _room(request), _user_id(request)
    connections = sum(one.connections for one in await gateway.broker.members(room) if one.user_id == user_id)
    await gateway.signals.kick(room, user_id)
    return answer({"room": room, "user_id": user_id, "connections": connections})


@keyed
async def disconnect(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE /api/v1/users/{user_id}/connections``: close them all with 4410, and say how many there were.

    A user without connections is no error: 0. Nothing keeps the user from connecting again.
    """
    gateway, user_id = request.app[GATEWAY], _user_id(request)
    connections = await gateway.broker.connections(user_id)
    await gateway.signals.disconnect(user_id)
    return answer({"user_id": user_id, "connections": connections})


@keyed
async def revoke_all(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/users/{user_id}/tokens?before=``: the user's tokens from before a Unix time count no longer.

    Without ``before`` it is the next whole second, and is in the answer: tokens say when they were issued in whole
    seconds, mostly, so one with that as its ``iat`` is the first that can be told from those before.
    """
    gateway, user_id = request.app[GATEWAY], _user_id(request)
    before = _before(request, floor(time.time()) + 1)
    await gateway.revocations.revoke_all(user_id, before)
    log.info("revoked the tokens of user %s from before %.12g", user_id, before)
    return answer({"user_id": user_id, "before": before})


@keyed
async def revoke_one(request: web.Request) -> web.StreamResponse:
    """Answer ``DELETE …/users/{user_id}/tokens/{jti}``: this token of the user counts no longer."""
    gateway, user_id = request.app[GATEWAY], _user_id(request)
    _only(request)
    token_id = request.match_info["jti"]
    await gateway.revocations.revoke_one(user_id, token_id)
    log.info("revoked a token of user %s", user_id)
    return answer({"user_id": user_id, "jti": token_id})


def _before(request: web.Request, default: int) -> float:
    """Return the Unix time in the query; one far ahead would lock the user out for as long, so it is a slip."""
    given = _only(request, "before").get("before")
    if given is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", given) or float(given) > default + AHEAD:
        raise Failure("bad_query", f"before is {given[:60]!r}; it must be a Unix time in seconds, not in the future.")
    return float(given)


def _room(request: web.Request) -> str:
    room = request.match_info["room"]
    request.app[GATEWAY].publishing.check_room(room)
    return room


def _user_id(request: web.Request) -> UserId:
    """Return the user's id as tokens have it: what can be a number is one."""
    text = request.match_info["user_id"]
    try:
        return parse_user_id(text)
    except ValueError:
        sentence = f"{text[:60]!r} is no user's id: letters, digits, dots, dashes and underscores."
        raise Refused("bad_user", sentence) from None


# What is not there.


@in_json
async def nothing_here(request: web.Request) -> web.StreamResponse:
    """Answer what no other route of the API takes: 405 where there is one for another method, else 404."""
    path, allowed = request.path[:100], ", ".join(await methods(request))
    if allowed:
        raise Failure("no_such_method", f"{path} takes {allowed}, not {request.method}.", headers={"Allow": allowed})
    raise Failure("no_such_path", f"There is no {path}; /openapi.json lists the calls of the API.")
