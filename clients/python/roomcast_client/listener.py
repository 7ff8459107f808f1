"""``Listener``: receives events over a WebSocket, across lost connections and restarts of the server.

It needs websockets: ``pip install 'roomcast-client[listen]'``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

try:
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
except ImportError as error:
    raise ImportError("A listener needs websockets: pip install 'roomcast-client[listen]'") from error

from .connection import websocket_url
from .errors import ListenerStopped
from .positions import REFRESH, Gap, Positions
from .results import EventFrame
from .retries import Retries
from .tokens import expiry

__all__ = ["Gap", "Listener"]

log = logging.getLogger("roomcast_client")

#: A token as such, or a function that returns a valid one.
TokenSource = str | Callable[[], str | Awaitable[str]]

#: The pauses between attempts to connect, and to join a room that cannot be joined for the moment.
_PAUSES: Final = Retries(first_pause=0.5, longest_pause=10.0)
#: How long before its expiry a token is replaced: a part of its lifetime, and at most this many seconds.
_REFRESH_PART: Final = 0.2
_REFRESH_BEFORE: Final = 60.0
#: The largest message of a server, in bytes.
_MAX_SIZE: Final = 16 * 1024 * 1024
#: The ends of a connection after which another one would end in the same way.
_FINAL: Final = frozenset((1002, 1003, 1007, 1009, 4403, 4410))


class _Connect(connect):
    """Does not follow redirects, which would send the token to another server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the refusal."""
        return exc


class Listener:
    """Joins ``rooms`` and yields their events, and those of the user's personal room, in order and without duplicates.

    ::

        async with Listener("http://localhost:8000", token, ["channel:1"]) as listener:
            async for event in listener:
                ...

    ``token`` is a token, or a function, plain or async, that returns one. The function is called for each connection
    and shortly before the token expires. After a lost connection, the listener connects again and yields the missed
    events. If some may be missing, it yields a ``Gap`` in their place.

    ``positions`` is what the property of this name returned in an earlier process: the listener continues there.
    Iterating raises ``ListenerStopped`` if another connection would end in the same way, and what ``token`` raises.
    """

    def __init__(
        self, url: str, token: TokenSource, rooms: Iterable[str] = (), *, positions: Mapping[str, str] | None = None
    ) -> None:
        self._url: Final = websocket_url(url)
        self._source: Final = token
        self._positions: Final = Positions(rooms, positions or {})
        self._socket: ClientConnection | None = None
        self._unsent: Final[deque[dict[str, Any]]] = deque()
        #: The number of failures since the connection was last in all rooms.
        self._failures = 0
        #: When the listener may connect again, when rooms are joined again, and when the token is replaced: times of
        #: the event loop.
        self._connect_at = 0.0
        self._join_at: float | None = None
        self._refresh_at: float | None = None
        self._expiry: float | None = None

    @property
    def positions(self) -> dict[str, str]:
        """The id of the last event that was yielded, for each room. Store it when the event is handled."""
        return self._positions.known

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventFrame | Gap:
        """Return the next event or gap. A call that was cancelled loses nothing."""
        while (item := self._positions.take()) is None:
            if self._socket is None:
                await self._connect()
            elif self._unsent:
                await self._send(self._socket)
            else:
                await self._receive(self._socket)
        return item

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._connect_at - loop.time()))
        token = await self._token()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self._url}?since={self._positions.since()}"
        try:
            self._socket = await _Connect(url, additional_headers=headers, compression=None, max_size=_MAX_SIZE)
        except InvalidStatus as refused:
            status = refused.response.status_code
            if 300 <= status < 500 and status not in (408, 429):
                raise ListenerStopped(f"The server refused the connection with HTTP status {status}.", status) from None
            self._lost(f"HTTP status {status}")
        except (OSError, TimeoutError, EOFError, InvalidHandshake) as error:
            self._lost(str(error) or type(error).__name__)
        else:
            self._unsent.clear()
            self._unsent.extend(self._positions.start_connection())
            self._join_at = None
            self._schedule_refresh(token)

    async def _token(self) -> str:
        token = self._source if isinstance(self._source, str) else self._source()
        return await token if inspect.isawaitable(token) else token

    def _lost(self, reason: str) -> None:
        """Prepare the next attempt to connect."""
        self._socket = None
        pause = self._next_pause()
        self._connect_at = asyncio.get_running_loop().time() + pause
        log.warning("The listener is not connected: %s. Connecting again in %.1f s.", reason, pause)

    def _next_pause(self) -> float:
        pause = _PAUSES.pause(self._failures, None)
        self._failures += 1
        return pause

    async def _send(self, socket: ClientConnection) -> None:
        """Send the next message."""
        message = self._unsent.popleft()
        with contextlib.suppress(ConnectionClosed):  # ``_receive`` raises it again, after the last frames
            await socket.send(json.dumps(message))

    async def _receive(self, socket: ClientConnection) -> None:
        """Handle the next frame, or do what is planned before that."""
        try:
            planned = [at for at in (self._join_at, self._refresh_at) if at is not None]
            async with asyncio.timeout_at(min(planned, default=None)):
                frame = await socket.recv()
        except TimeoutError:
            await self._do_planned()
        except ConnectionClosed as closed:
            end = closed.rcvd
            self._on_end(1006 if end is None else end.code, "the connection was lost" if end is None else end.reason)
        else:
            self._positions.handle(json.loads(frame))
            if self._positions.refused and self._join_at is None:
                self._join_at = asyncio.get_running_loop().time() + self._next_pause()
            if self._positions.is_complete:
                self._failures = 0

    def _on_end(self, code: int, reason: str) -> None:
        """Connect again, or raise ``ListenerStopped`` if that is useless."""
        was_welcome = self._positions.is_welcome
        if code in _FINAL or (code == 4401 and (isinstance(self._source, str) or not was_welcome)):
            self._socket = None
            raise ListenerStopped(f"The server ended the connection: {code} {reason}.", code)
        self._lost(f"{code} {reason}".strip())

    async def _do_planned(self) -> None:
        """Join refused rooms again, and replace the token, if it is time."""
        now = asyncio.get_running_loop().time()
        if self._join_at is not None and self._join_at <= now:
            self._join_at = None
            self._unsent.extend(map(self._positions.join, self._positions.refused))
            self._positions.refused.clear()
        if self._refresh_at is not None and self._refresh_at <= now:
            self._refresh_at = None
            try:
                token = await self._token()
            except Exception as error:
                log.warning("There is no new token for the listener: %s", error)
                return
            self._unsent.append({"type": "refresh_token", "data": {"token": token}, "id": REFRESH})
            self._schedule_refresh(token)

    def _schedule_refresh(self, token: str) -> None:
        """Plan the replacement of ``token``, unless it is fixed or does not end later than the one before."""
        before, self._expiry = self._expiry, expiry(token)
        self._refresh_at = None
        if isinstance(self._source, str) or self._expiry is None or self._expiry == before:
            return
        left = self._expiry - time.time()
        margin = min(_REFRESH_BEFORE, left * _REFRESH_PART)
        self._refresh_at = asyncio.get_running_loop().time() + max(left - margin, 0.0)
