"""``Roomcast``: the client for code without asyncio."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from . import calls, connection
from .calls import Call
from .exchange import Outcome, Pause, Send, carry_out, failure
from .results import Event, History, Member, Room, Ticket, UserId, UserStatus
from .retries import Retries

T = TypeVar("T")


class Roomcast:
    """A client of the roomcast server at ``url``, such as ``http://127.0.0.1:8000``.

    All calls raise ``RoomcastError``. They repeat requests as ``retries`` states; each attempt waits at most
    ``timeout`` seconds for the network. A publish has an idempotency key, so that repeats publish nothing twice.

    An instance can be shared by all threads. It keeps connections open between calls, and opens new ones after a fork.
    ``transport`` replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = connection.TIMEOUT,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._options: Final = {**connection.options(url, api_key), "transport": transport}
        self._timeout: Final = timeout
        self._retries: Final = retries or Retries()
        self._http = httpx.Client(**self._options)
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._options['base_url'])!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def publish(
        self,
        type: str,
        room: str,
        data: Mapping[str, Any] | None = None,
        *,
        sender: str | None = None,
        key: str | None = None,
    ) -> str | None:
        """Publish an event; return its id, or None if events of this type are not stored.

        Give a ``key`` to make it safe to call this again for the same event within ``IDEMPOTENCY_TTL`` of the server,
        by default 5 minutes. The members of the room see the key. Without one, a random key is used.
        """
        return self._run(calls.publish(type, room, data, sender, key))

    def batch(self, events: Iterable[Event], *, key: str | None = None) -> list[str | None]:
        """Publish up to 1,000 events, all or none; return their ids. ``key`` is that of the whole list."""
        return self._run(calls.batch(events, key))

    def rooms(self) -> list[Room]:
        """Return the rooms that have members, by name."""
        return self._run(calls.rooms())

    def members(self, room: str) -> list[Member]:
        """Return the users in a room, in order of arrival."""
        return self._run(calls.members(room))

    def history(self, room: str, *, since: str | None = None, limit: int | None = None) -> History:
        """Return the newest events of a room, or the oldest ones after the id ``since``: at most ``limit`` or 1,000."""
        return self._run(calls.history(room, since, limit))

    def kick(self, room: str, user_id: UserId) -> int:
        """Remove a user from a room; return the number of connections removed. The user may join again."""
        return self._run(calls.kick(room, user_id))

    def disconnect(self, user_id: UserId) -> int:
        """Close all connections of a user; return their number. The user may connect again."""
        return self._run(calls.disconnect(user_id))

    def revoke(self, user_id: UserId, *, before: float | None = None) -> float:
        """Revoke the tokens of a user that were issued before a Unix time, by default all; return the time.

        A new token of the user is valid only if its ``iat`` is not earlier.
        """
        return self._run(calls.revoke(user_id, before))

    def revoke_token(self, user_id: UserId, jti: str | int) -> None:
        """Revoke one token of a user, given its id."""
        self._run(calls.revoke_token(user_id, jti))

    def online(self, user_id: UserId) -> UserStatus:
        """Return whether a user is online, and in which rooms."""
        return self._run(calls.online(user_id))

    def online_many(self, user_ids: Iterable[UserId]) -> list[UserStatus]:
        """Return the same for up to 1,000 users, in the order of ``user_ids``."""
        return self._run(calls.online_many(user_ids))

    def ticket(self, token: str) -> Ticket:
        """Exchange a user's token for a ticket, which is valid for one connection and a short time."""
        return self._run(calls.ticket(token))

    def _run(self, call: Call[T]) -> T:
        steps = carry_out(call, self._retries, self._timeout)
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = self._send(step)

    def _send(self, step: Send) -> httpx.Response | str:
        if self._process != os.getpid():  # the sockets belong to the parent as well
            self._http = httpx.Client(**self._options)
            self._process = os.getpid()
        try:
            return self._http.request(
                step.method,
                step.path,
                params=step.query,
                headers=step.headers,
                content=step.body,
                timeout=step.timeout,
            )
        except httpx.RequestError as error:
            return failure(error)
