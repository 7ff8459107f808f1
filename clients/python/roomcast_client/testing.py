"""For tests of applications: a client that records and checks what is published, without a server.

It needs jsonschema: ``pip install 'roomcast-client[testing]'``. Write the document of your server with
``roomcast schema > asyncapi.json``::

    @pytest.fixture
    def roomcast():
        with Recorder("asyncapi.json") as recorder:
            yield recorder

    def test_a_new_task_is_announced(roomcast):
        create_task(roomcast.client, "Try it")
        assert roomcast.events == [Event("task.created", "project:123", {"task_id": 1, "title": "Try it"})]
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import unquote

import httpx

from .async_client import AsyncRoomcast
from .client import Roomcast
from .errors import Problem
from .event_schemas import Document, EventSchemas, load
from .results import Event
from .retries import Retries

_URL: Final = "http://roomcast.invalid"
_KEY: Final = "the-key-of-a-recorder"
#: The method of the client for each request. ``*`` stands for a room or an id.
_NAMES: Final = {
    ("GET", "rooms"): "rooms",
    ("GET", "rooms", "*", "members"): "members",
    ("GET", "rooms", "*", "history"): "history",
    ("DELETE", "rooms", "*", "members", "*"): "kick",
    ("DELETE", "users", "*", "connections"): "disconnect",
    ("DELETE", "users", "*", "tokens"): "revoke",
    ("DELETE", "users", "*", "tokens", "*"): "revoke_token",
    ("GET", "users", "*"): "online",
    ("POST", "users", "*"): "online_many",
    ("POST", "tickets"): "ticket",
}
_OFFLINE: Final = {
    **{"user_id": 0, "online": False, "connections": 0, "rooms": [], "rooms_complete": True},
    **{"since": None, "last_seen": None},
}
#: The answers of a server without rooms and users.
_ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "rooms": {"rooms": []},
    "members": {"members": []},
    "history": {"events": [], "last_id": "recorded-0", "recovered": True, "more": False},
    "kick": {"connections": 0},
    "disconnect": {"connections": 0},
    "revoke": {"before": 1.0},
    "revoke_token": {},
    "online": _OFFLINE,
    "online_many": {"users": []},
    "ticket": {"ticket": "recorded", "expires_in": 30.0},
}


class InvalidEvent(AssertionError):
    """The application has published an event that a server would refuse. ``problems`` names each field."""

    def __init__(self, events: list[Any], problems: list[Problem]) -> None:
        lines = [f"{_title(events[one.index])}: {one.field}: {one.error}" for one in problems]
        super().__init__("A server would refuse this:\n" + "\n".join(f"  {line}" for line in lines))
        self.problems: Final = problems


class Call(NamedTuple):
    """A call other than a publish: the name of the method of the client, and its arguments."""

    name: str
    arguments: tuple[str | int, ...]


class Recorder:
    """Records what is done with ``client`` and ``async_client``, and checks events with the AsyncAPI ``document``.

    ``document`` is a path, a URL such as ``http://127.0.0.1:8000/asyncapi.json``, or the document itself. An event that
    a server would refuse raises ``InvalidEvent`` in the application. If the application catches it, the end of the
    ``with`` block raises it again.

    Attributes:
        client: A ``Roomcast``.
        async_client: An ``AsyncRoomcast``.
        events: The events that were published, in order.
        calls: The other calls, in order, with the rooms and ids that they are about.
        invalid: The last event that was refused. Set it to None if it was expected.
        answers: What a server would answer to the other calls, by the name of the method: change it for your test.
    """

    def __init__(self, document: Document) -> None:
        self._schemas: Final = EventSchemas(load(document))
        transport = httpx.MockTransport(self._handle)
        no_retries = Retries(deadline=0)
        self.client: Final = Roomcast(_URL, _KEY, retries=no_retries, transport=transport)
        self.async_client: Final = AsyncRoomcast(_URL, _KEY, retries=no_retries, transport=transport)
        self.events: Final[list[Event]] = []
        self.calls: Final[list[Call]] = []
        self.answers: Final[dict[str, dict[str, Any]]] = copy.deepcopy(_ANSWERS)
        self._counts: Final[Counter[str]] = Counter()
        self._answers: Final[dict[str, tuple[bytes, httpx.Response]]] = {}
        self._ids: Final[dict[tuple[str, str], str]] = {}
        self._failure: tuple[int, str] | None = None
        self.invalid: InvalidEvent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        if error is None and self.invalid is not None:
            raise self.invalid

    @contextmanager
    def failing(self, status: int = 503, code: str = "unavailable") -> Iterator[None]:
        """Answer all calls in the ``with`` block with an error. Nothing is recorded."""
        self._failure = (status, code)
        try:
            yield
        finally:
            self._failure = None

    def _handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of either client."""
        if self._failure is not None:
            return _error(*self._failure)
        path = request.url.raw_path.decode("ascii").partition("?")[0].removeprefix("/api/v1/")
        if path == "events":
            return self._publish_once(request.headers["Idempotency-Key"], request.content)
        call = _call(request.method, path)
        self.calls.append(call)
        return httpx.Response(200, json=self.answers[call.name])

    def _publish_once(self, key: str, body: bytes) -> httpx.Response:
        """Publish, unless ``key`` was used before."""
        if key not in self._answers:
            given = json.loads(body)
            ids = self._publish(given if isinstance(given, list) else [given])
            answer = {"ids": ids} if isinstance(given, list) else {"id": ids[0]}
            self._answers[key] = (body, httpx.Response(200, json=answer))
        first, response = self._answers[key]
        return response if first == body else _error(422, "key_reused")

    def _publish(self, events: list[Any]) -> list[str | None]:
        problems = [one for index, event in enumerate(events) for one in self._schemas.problems(event, index)]
        if problems:
            self.invalid = InvalidEvent(events, problems)
            raise self.invalid
        return [self._record(Event(**event)) for event in events]

    def _record(self, event: Event) -> str | None:
        """Record one event; return its id."""
        is_stored = self._schemas.is_stored(event.type)
        known = self._ids.get((event.room, event.key)) if event.key is not None and is_stored else None
        if known is not None:
            return known
        self.events.append(event)
        if not is_stored:
            return None
        self._counts[event.room] += 1
        id = f"recorded-{self._counts[event.room]}"
        if event.key is not None:
            self._ids[event.room, event.key] = id
        return id


def _error(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error": f"The recorder answers {code}.", "code": code})


def _call(method: str, path: str) -> Call:
    """Return the method of the client that sends this request, with the rooms and ids in the path."""
    parts = path.split("/")
    name = _NAMES[method, *("*" if index % 2 else part for index, part in enumerate(parts))]
    return Call(name, tuple(_argument(unquote(part)) for part in parts[1::2] if name != "online_many"))


def _argument(text: str) -> str | int:
    """Return a decimal number as an int, as user ids are."""
    return int(text) if text.isascii() and text.isdecimal() else text


def _title(event: Mapping[str, Any]) -> str:
    return f"{event.get('type')} in {event.get('room')}"
