"""Validates the events of one HTTP request before any of them is published, and reports all their problems."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from ...broker.base import Publication
from ...errors import Refused, Unavailable
from ...gateway.gateway import Gateway
from ...live_event import LivePublication
from ..json_errors import Failure
from .idempotency import KEY_PATTERN, IdempotencyKey

_T = TypeVar("_T")

#: How many events a request may have. This number keeps the event loop busy for about 10 ms.
MAX_EVENTS: Final = 1000
#: How many problems of one event are reported.
MAX_PROBLEMS: Final = 20

#: The fields of an event, each with its Python type and a description of it.
_FIELDS: Final[dict[str, tuple[type[Any], str]]] = {
    "type": (str, "a string"),
    "room": (str, "a string"),
    "data": (dict, "an object"),
    "sender": (str, "a string"),
    "key": (str, "a string of 1 to 128 printable characters"),
}
#: The fields that may be missing or null.
_OPTIONAL: Final = ("sender", "key")
#: The field of the event that a refusal with this code is about. All other refusals are about its data.
_FIELD_OF_CODE: Final = {"unknown_type": "type", "bad_room": "room", "unknown_room_type": "room"}


class Problem(NamedTuple):
    """One problem of an event: the path of the ``field``, a sentence and a code. The path is empty for the whole event.

    The path of a field in the data is, for example, ``data.title``.
    """

    field: str
    error: str
    code: str

    @property
    def sentence(self) -> str:
        """The error, preceded by the field if the field is in the data. Errors of other fields name their field."""
        return f"{self.field}: {self.error}" if self.field.startswith("data.") else self.error


class _EventCheck:
    """Validates one event and collects its problems."""

    def __init__(self, gateway: Gateway, event: Any) -> None:
        self._gateway: Final = gateway
        self._event: Final = event
        self.problems: Final[list[Problem]] = []

    def prepare(
        self, key: IdempotencyKey | None, event_key: Callable[[str], IdempotencyKey]
    ) -> Publication | LivePublication | None:
        """Return the publication of the event, or None if there are problems.

        Its key is made by ``event_key`` if the event has one, and otherwise ``key``.
        """
        self._check_envelope()
        event = self._event
        if not self.problems:
            own = key if (given := event.get("key")) is None else event_key(given)
            keys = (None, None) if own is None else own
            fields = (event["type"], event["room"], event["data"], event.get("sender"))
            publication = self._collect(lambda: self._gateway.publishing.prepare(*fields, *keys))
            if publication is not None:
                return publication
        if isinstance(event, dict):
            self._check_parts(event.get("type"), event.get("room"), event.get("data"))
        return None

    def _check_envelope(self) -> None:
        """Check the names of the fields and the types of their values."""
        event = self._event
        if not isinstance(event, dict):
            self._add("", "An event must be an object with type, room, data and perhaps sender and key.", "bad_message")
            return
        for name in (name[:60] for name in event if name not in _FIELDS):
            self._add(name, f"{name} is unknown; an event has type, room, data, sender and key.", "bad_message")
        for name, (wanted, words) in _FIELDS.items():
            if (value := event.get(name)) is None and (name in _OPTIONAL or name not in event):
                if name not in _OPTIONAL:
                    self._add(name, f"{name} is missing; it must be {words}.", "bad_message")
            elif not isinstance(value, wanted) or (name == "key" and not KEY_PATTERN.fullmatch(value)):
                self._add(name, f"{name} must be {words}.", "bad_message")

    def _check_parts(self, type: Any, room: Any, data: Any) -> None:
        """Check each field by itself. ``publishing.prepare`` stops at the first problem."""
        gateway = self._gateway
        event_type = gateway.registry.events.get(type) if isinstance(type, str) else None
        if isinstance(type, str):
            self._collect(lambda: gateway.registry.event(type))
        if event_type is not None and isinstance(data, dict):
            self._collect(lambda: event_type.validator.event(data))
        if isinstance(room, str):
            self._collect(lambda: gateway.publishing.check_room(room))
            if event_type is not None and event_type.rooms and ":" in room:
                self._collect(lambda: gateway.publishing.check_destination(event_type, room))

    def _collect(self, check: Callable[[], _T]) -> _T | None:
        """Return the result of ``check``. If it raises ``Refused``, add its problems and return None."""
        try:
            return check()
        except Refused as refused:
            field = _FIELD_OF_CODE.get(refused.code)
            if field is not None or not refused.fields:
                self._add(field or "data", refused.message, refused.code)
            for path, messages in (refused.fields or {}).items():
                error = " ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
                self._add(f"data.{path}" if path else "data", error, refused.code)
        return None

    def _add(self, field: str, error: str, code: str) -> None:
        is_known = any(problem.field == field for problem in self.problems)
        if not is_known and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(field, error, code))


def prepare(
    gateway: Gateway, given: Any, key: IdempotencyKey | None, event_key: Callable[[str], IdempotencyKey]
) -> list[Publication | LivePublication]:
    """Return the publications of ``given``, an event or a list of events; raise ``Failure`` if any has a problem.

    An event with a ``key`` gets the key that ``event_key`` makes of it. With an idempotency ``key`` of the request,
    each other publication gets a key of its own, and shows the key of the request.
    """
    events = given if isinstance(given, list) else [given]
    if len(events) > MAX_EVENTS:
        raise Failure("too_many_events", f"The list has {len(events)} events; {MAX_EVENTS} is the most at once.")
    publications: list[Publication | LivePublication] = []
    refused: dict[int, list[Problem]] = {}
    for index, event in enumerate(events):
        check = _EventCheck(gateway, event)
        publication = check.prepare(key and IdempotencyKey(f"{key.stored}/{index}", key.given), event_key)
        if publication is None:
            refused[index] = check.problems
        else:
            publications.append(publication)
    if refused:
        raise _list_failure(refused, len(events)) if isinstance(given, list) else _event_failure(refused[0])
    return publications


def forbid_rooms(
    publications: Sequence[Publication | LivePublication], is_allowed: Callable[[str], bool], failure: Failure
) -> Failure:
    """Return ``failure``, which refuses a room that the API key does not allow, with all events in such rooms."""
    problem = Problem("room", str(failure), failure.code)
    refused = {index: [problem] for index, one in enumerate(publications) if not is_allowed(one.room)}
    return Failure(failure.code, str(failure), {"items": _items(refused)})


async def call_hooks(
    gateway: Gateway, publications: Sequence[Publication | LivePublication], *, is_list: bool
) -> Sequence[Publication | LivePublication]:
    """Call the hooks before the events are published, and return what to publish.

    Raises ``Failure`` if a hook refuses an event, ``Unavailable`` if one fails or all together take too long.
    """
    if not gateway.hooks.follows_events:
        return publications
    checked: list[Publication | LivePublication] = []
    try:
        async with asyncio.timeout(gateway.settings.handler_timeout):
            for one in publications:
                checked.append(await gateway.hooks.before_publish(one, "api") if isinstance(one, Publication) else one)
    except Refused as refused:
        problem = Problem("data", refused.message, refused.code)
        if is_list:
            raise _list_failure({len(checked): [problem]}, len(publications)) from None
        raise _event_failure([problem]) from None
    except TimeoutError:
        raise Unavailable("The checks of these events took too long.") from None
    return checked


def _event_failure(problems: list[Problem]) -> Failure:
    """Return the failure of one event, with the sentence, the code and the fields of an error frame."""
    first = problems[0]
    fields = {problem.field[5:]: [problem.error] for problem in problems if problem.code == "invalid_data"}
    more = {"fields": fields} if fields else {}
    return Failure(first.code, first.sentence + _and_more(len(problems) - 1), {**more, "items": _items({0: problems})})


def _list_failure(refused: dict[int, list[Problem]], total: int) -> Failure:
    """Return the failure of a list of ``total`` events."""
    index, problems = next(iter(refused.items()))
    sentence = (
        f"{len(refused)} of {total} events cannot be published, so none was published. "
        f"At index {index}: {problems[0].sentence}"
    )
    more = _and_more(sum(map(len, refused.values())) - 1)
    return Failure("invalid_events", sentence + more, {"items": _items(refused)})


def _and_more(count: int) -> str:
    return f" ({count} more {'problem' if count == 1 else 'problems'} in items.)" if count else ""


def _items(refused: dict[int, list[Problem]]) -> list[dict[str, Any]]:
    return [{"index": index, **problem._asdict()} for index, problems in refused.items() for problem in problems]
