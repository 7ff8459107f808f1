"""Checks events that came over HTTP, all before any is published, and names everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...errors import Refused
from ...gateway.gateway import Gateway
from ..json_errors import Failure

if TYPE_CHECKING:
    from ...broker.base import Publication

#: So many events a request may have: a list of them holds the event loop for some 10 ms.
MAX_EVENTS: Final = 1000
#: So many problems of one event are named.
MAX_PROBLEMS: Final = 20

#: The fields of an event, their types, and these in words; ``sender`` may be left out or null.
_FIELDS: Final[dict[str, tuple[type[Any], str]]] = {
    "type": (str, "a string"),
    "room": (str, "a string"),
    "data": (dict, "an object"),
    "sender": (str, "a string"),
}
#: Which field of the event a refusal is about, where it is not its data.
_PLACES: Final = {"unknown_type": "type", "bad_room": "room", "unknown_room_type": "room"}


class Problem(NamedTuple):
    """One thing wrong with an event: the ``field`` (``data.title``; empty for the event itself), what, and a code."""

    field: str
    error: str
    code: str

    @property
    def sentence(self) -> str:
        """The error, which does not name its field if that is one of the data."""
        return f"{self.field}: {self.error}" if self.field.startswith("data.") else self.error


class _Item:
    """One event and what was found to be wrong with it."""

    def __init__(self, gateway: Gateway, event: Any) -> None:
        self._gateway = gateway
        self._event = event
        self.problems: list[Problem] = []

    def prepare(self, key: str | None) -> Publication | None:
        """Return what is to be published, or None if there are problems."""
        self._check_envelope()
        prepared: list[Publication] = []
        event = self._event
        if not self.problems:
            given = (event["type"], event["room"], event["data"], event.get("sender"))
            self._try(lambda: prepared.append(self._gateway.publishing.prepare(*given, key)))
        if prepared:
            return prepared[0]
        if isinstance(event, dict):
            self._check_parts(event.get("type"), event.get("room"), event.get("data"))
        return None

    def _check_envelope(self) -> None:
        event = self._event
        if not isinstance(event, dict):
            self._add("", "An event must be an object with type, room, data and perhaps sender.", "bad_message")
            return
        for name in (name[:60] for name in event if name not in _FIELDS):
            self._add(name, f"{name} is unknown; an event has type, room, data and sender.", "bad_message")
        for name, (wanted, words) in _FIELDS.items():
            if name != "sender" and name not in event:
                self._add(name, f"{name} is missing; it must be {words}.", "bad_message")
            elif not isinstance(value := event.get(name), wanted) and (name, value) != ("sender", None):
                self._add(name, f"{name} must be {words}.", "bad_message")

    def _check_parts(self, type: Any, room: Any, data: Any) -> None:
        """Check each part by itself: what ``prepare`` refuses, it refuses for the first of all reasons."""
        gateway = self._gateway
        kind = gateway.registry.events.get(type) if isinstance(type, str) else None
        if isinstance(type, str):
            self._try(lambda: gateway.registry.event(type))
        if kind is not None and isinstance(data, dict):
            self._try(lambda: kind.validator.event(data))
        if isinstance(room, str):
            self._try(lambda: gateway.publishing.check_room(room))
            if kind is not None and kind.rooms and ":" in room:
                self._try(lambda: gateway.publishing.check_destination(kind, room))

    def _try(self, check: Callable[[], Any]) -> None:
        """Carry out a check; what it refuses is a problem."""
        try:
            check()
        except Refused as refused:
            place = _PLACES.get(refused.code)
            if place is not None or not refused.fields:
                self._add(place or "data", refused.message, refused.code)
            for path, messages in (refused.fields or {}).items():
                said = " ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
                self._add(f"data.{path}" if path else "data", said, refused.code)

    def _add(self, field: str, error: str, code: str) -> None:
        known = any(problem.field == field for problem in self.problems)
        if not known and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(field, error, code))


def prepare(gateway: Gateway, given: Any, key: str | None) -> list[Publication]:
    """Return what to publish for ``given``, an event or a list of them; raise ``Failure`` if any cannot be.

    With ``key`` each gets an idempotency key of its own. Its form is no user's, whose keys begin with the user's id.
    """
    events = given if isinstance(given, list) else [given]
    if len(events) > MAX_EVENTS:
        raise Failure("too_many_events", f"The list has {len(events)} events; {MAX_EVENTS} is the most at once.")
    publications: list[Publication] = []
    wrong: dict[int, list[Problem]] = {}
    for index, event in enumerate(events):
        item = _Item(gateway, event)
        publication = item.prepare(None if key is None else f"http:{key}/{index}")
        if publication is None:
            wrong[index] = item.problems
        else:
            publications.append(publication)
    if wrong:
        raise _many(wrong, len(events)) if isinstance(given, list) else _one(wrong[0])
    return publications


def _one(problems: list[Problem]) -> Failure:
    """Refuse one event in the words, the code and the fields of an error frame."""
    first = problems[0]
    fields = {problem.field[5:]: [problem.error] for problem in problems if problem.code == "invalid_data"}
    more = {"fields": fields} if fields else {}
    return Failure(first.code, first.sentence + _and_more(len(problems) - 1), {**more, "items": _items({0: problems})})


def _many(wrong: dict[int, list[Problem]], total: int) -> Failure:
    index, problems = next(iter(wrong.items()))
    more = _and_more(sum(map(len, wrong.values())) - 1)
    none = f"{len(wrong)} of {total} events cannot be published, so none was"
    sentence = f"{none}; the one of index {index}: {problems[0].sentence}"
    return Failure("invalid_events", sentence + more, {"items": _items(wrong)})


def _and_more(count: int) -> str:
    return f" ({count} more {'problem' if count == 1 else 'problems'} in items.)" if count else ""


def _items(wrong: dict[int, list[Problem]]) -> list[dict[str, Any]]:
    return [{"index": index, **problem._asdict()} for index, problems in wrong.items() for problem in problems]
