"""A user that is connected to a server: sends commands, waits for events, loses the connection and returns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import orjson
from aiohttp import ClientSession, ClientWebSocketResponse, WSMessage, WSMsgType

from ..errors import Refused, RoomcastError
from ..web.upgrade.handshake import PATH
from . import failures
from .timeouts import EVENT_TIMEOUT, REPLY_TIMEOUT, real_timeout

#: The type of the live events by which ``nothing`` finds out that all earlier events have arrived.
BARRIER: Final = "roomcast.testing.barrier"
#: Sends such an event with a name from one node to the user with an id.
SendBarrier = Callable[["int | str", str], None]


class Disconnected(RoomcastError):
    """The connection ended. ``code`` and ``reason`` are those of the close, 1006 and ``""`` if there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Client:
    """A connected user.

    ``welcome`` is the data of the last ``connected`` frame. ``events`` are the frames that were received and are not
    replies to ``command``, ``join`` or ``leave``, oldest first; ``next`` removes them. Methods that wait raise
    ``Disconnected`` if the connection ends.
    """

    def __init__(self, session: ClientSession, url: str, token: str, barriers: Sequence[SendBarrier] = ()) -> None:
        self.welcome: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self._session: Final = session
        self._url = url
        self._token: Final = token
        self._barriers: Final = barriers
        self._socket: ClientWebSocketResponse
        self._reading: asyncio.Task[None]
        #: The replies that ``command`` waits for, by request id.
        self._replies: dict[object, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        #: The ids of messages that ``send`` has sent, whose replies are events.
        self._sent_ids: set[object] = set()
        #: The rooms that are joined, and the id of the last event in each; None is the personal room.
        self._rooms: dict[str, None] = {}
        self._positions: dict[str | None, str] = {}
        self._changed = asyncio.Event()
        self._end: tuple[int, str] | None = None

    @classmethod
    async def open(cls, session: ClientSession, url: str, token: str, *, barriers: Sequence[SendBarrier] = ()) -> Self:
        """Connect to the server at ``url`` (``http://host:port``) with ``token``, and wait for ``connected``.

        ``barriers`` has a function for each node of servers with Redis; see ``nothing``.
        """
        client = cls(session, url, token, barriers)
        await client._connect()
        return client

    async def _connect(self) -> None:
        self._socket = await self._session.ws_connect(
            f"{self._url}{PATH}",
            params={"since": self._positions.get(None, "")},
            headers={"Authorization": f"Bearer {self._token}"},
        )
        self._end = None
        self._reading = asyncio.create_task(self._read())
        try:
            self.welcome = (await self.next("connected"))["data"]
        except BaseException:
            await self.close()
            raise

    # The connection.

    async def lose(self) -> None:
        """Cut the connection without a close frame, as a lost network does. Does not wait for the server."""
        if self._end is None:
            # uvloop's transports do not offer shutdown, so this uses a copy of the socket.
            number = self._socket.get_extra_info("socket").fileno()
            with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as copy, suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)
        await self._reading

    async def reconnect(self, url: str | None = None) -> dict[str, dict[str, Any]]:
        """Connect again, as ``roomcast.js`` does: join all rooms again, each with the last event id as ``since``.

        The missed events are in ``events``. An open connection is lost first. ``url`` is the server, by default the one
        of before.

        Returns:
            The data of ``joined_room`` by room: ``recovered`` is False if events were lost, and ``last_id`` is the last
            event of the room. For the personal room, ``welcome`` has these fields.

        Raises:
            Refused: A room does not admit the user any more. It is not joined again later.
        """
        await self.lose()
        self._url = url or self._url
        await self._connect()
        joined = {}
        for room in list(self._rooms):
            del self._rooms[room]
            joined[room] = await self._join(room, {"since": self._positions.get(room)})
        return joined

    async def close(self) -> None:
        """Close the connection, as a browser does when the user leaves the page."""
        await self._socket.close()
        await self._reading

    async def closed(self, *, timeout: float = EVENT_TIMEOUT) -> tuple[int, str]:  # noqa: ASYNC109  # has its message
        """Wait until the connection ends, and return the code and the reason of the close.

        Raises ``AssertionError`` if it is still open after ``timeout`` seconds.
        """
        __tracebackhide__ = True
        try:
            async with real_timeout(timeout):
                while self._end is None:
                    await self._wait()
        except TimeoutError:
            raise AssertionError(f"the connection was not closed within {timeout:g} s") from None
        return self._end

    # Sending.

    async def join(
        self, room: str, since: str | None = None, *, last: int | None = None, presence: bool = False
    ) -> dict[str, Any]:
        """Join ``room`` and return the data of ``joined_room``.

        With the event id ``since``, the server sends all later events, and the data has ``recovered`` and ``last_id``.
        With ``last``, it sends that many of the newest events unless it sends those after ``since``, and the data has
        ``last_id`` and ``more``. With ``presence``, the data has ``members``, ``member_count`` and, if there are more
        members, ``next``. If the room can have messages, the data has ``unread``. Raises ``Refused`` with the code of
        the ``error`` frame if the join is refused.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        options = {"last": last, "presence": presence or None}
        given = {name: value for name, value in options.items() if value is not None}
        data = await self._join(room, {"since": since, **given})
        if since is None:  # it was asked for only to have the position in the room
            data = {name: value for name, value in data.items() if name != "recovered" and (name != "last_id" or last)}
        return data

    async def _join(self, room: str, options: Mapping[str, Any]) -> dict[str, Any]:
        __tracebackhide__ = True
        if since := options["since"]:
            self._positions[room] = since
        return await self._request("join_room", room, options)

    async def leave(self, room: str) -> dict[str, Any]:
        """Leave ``room`` and return the data of ``left_room``. Raises ``Refused``."""
        __tracebackhide__ = True
        return await self._request("leave_room", room)

    async def history(
        self, room: str, *, before: str | None = None, since: str | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """Read up to ``limit`` stored events of ``room``; return the data of ``history``.

        These are the newest events, or the newest ones before the event id ``before``, or the oldest ones after
        ``since``. The data has ``events``, ``more``, ``last_id``, and with ``since`` ``recovered``. Raises ``Refused``.
        """
        __tracebackhide__ = True
        options = {"before": before, "since": since, "limit": limit}
        given = {name: value for name, value in options.items() if value is not None}
        return await self._request("history", room, given)

    async def members(self, room: str, after: str | None = None, *, limit: int = 100) -> dict[str, Any]:
        """Return a page of the members of ``room``: the data of ``members``. ``after`` is the ``next`` of a page.

        Raises ``Refused``, for example if this client is not in the room.
        """
        __tracebackhide__ = True
        return await self._request("members", room, {"after": after, "limit": limit})

    async def set_presence(
        self, status: str | None = None, data: Mapping[str, Any] | None = None, *, room: str | None = None
    ) -> dict[str, Any]:
        """Set the status of the user in ``room``, or in all rooms of this client; return the data of the reply.

        Raises ``Refused``.
        """
        __tracebackhide__ = True
        return await self._request("set_presence", room, {"status": status, "data": data})

    async def mark_read(self, room: str, event_id: str | None = None) -> dict[str, Any]:
        """Mark ``room`` as read up to ``event_id``, by default up to the last event that has arrived.

        Return the data of ``marked_read``: the ``event_id`` of the mark, and the number of messages after it as
        ``unread``. The user's other clients receive a ``marked_read`` as an event. Raises ``Refused``, for example if
        this client is not in the room.
        """
        __tracebackhide__ = True
        if event_id is None:
            event_id = self._positions.get(room)
        return await self._request("mark_read", room, {"event_id": event_id})

    async def command(
        self, type: str, data: Mapping[str, Any] | None = None, *, room: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Send a command and return the data of its reply.

        ``key`` is an idempotency key. Raises ``Refused`` with the code, message and fields of the ``error`` frame if
        the command is refused or fails, ``AssertionError`` if there is no reply within ``REPLY_TIMEOUT``.
        """
        __tracebackhide__ = True
        return await self._request(type, room, data, key)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send ``message`` without changes and without waiting. A reply to it is appended to ``events``."""
        self._sent_ids.add(message.get("id"))
        await self._send(message)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._end is not None:
            raise Disconnected(*self._end)
        try:
            await self._socket.send_str(orjson.dumps(message).decode())
        except ConnectionError:
            raise Disconnected(*await self.closed()) from None

    # Receiving.

    async def next(
        self,
        type: str | None = None,
        *,
        room: str | None = None,
        data: Mapping[str, Any] | None = None,
        timeout: float = EVENT_TIMEOUT,  # noqa: ASYNC109  # the failure has its own message
    ) -> dict[str, Any]:
        """Remove and return the oldest event of ``type`` in ``room``, and wait for one if needed. None means any.

        Raises ``AssertionError`` if no such event arrives within ``timeout`` seconds; the text lists ``events``. If
        ``data`` is given and the event has other data, the text shows the difference.
        """
        __tracebackhide__ = True
        try:
            async with real_timeout(timeout):
                while not (matching := self._matching(type, room)):
                    await self._wait()
        except TimeoutError:
            raise AssertionError(failures.missing(type, room, timeout, self.events)) from None
        event = matching[0]
        self.events.remove(event)
        if data is not None and event["data"] != data:
            raise AssertionError(failures.differs(event, data))
        return event

    async def nothing(self, type: str | None = None, *, room: str | None = None) -> None:
        """Raise ``AssertionError`` if ``events`` has an event of ``type`` in ``room``. None means any.

        First, everything arrives that was published before. On Redis, each node sends a live event to this user, which
        arrives after all earlier events. Then this sends a ping and waits for the pong. It does not wait for a time.
        """
        __tracebackhide__ = True
        for send in self._barriers:
            await self._pass_barrier(send)
        await self._request("ping")
        if matching := self._matching(type, room):
            raise AssertionError(failures.unexpected(type, room, matching))

    # Implementation.

    def _matching(self, type: str | None, room: str | None) -> list[dict[str, Any]]:
        return [
            event
            for event in self.events
            if (type is None or event["type"] == type) and (room is None or event.get("room") == room)
        ]

    async def _wait(self) -> None:
        """Wait for the next event, or raise ``Disconnected`` if the connection has ended."""
        if self._end is not None:
            raise Disconnected(*self._end)
        self._changed.clear()
        await self._changed.wait()

    async def _request(
        self, type: str, room: str | None = None, data: Mapping[str, Any] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        __tracebackhide__ = True
        self._last_id += 1
        id = self._last_id
        message = {"type": type, "id": id, "room": room, "data": data, "key": key}
        request = {name: value for name, value in message.items() if value is not None}
        frame = await self._reply(id, f"reply to {type}", self._send(request))
        result: dict[str, Any] = frame["data"]
        if frame["type"] == "error":
            raise _refused(result)
        return result

    async def _pass_barrier(self, send: SendBarrier) -> None:
        """Wait until an event of one node arrives, which is sent now."""
        self._last_id += 1
        name = f"{id(self)}-{self._last_id}"

        async def send_now() -> None:
            send(self.welcome["user_id"], name)

        await self._reply(name, "live event of the node", send_now())

    async def _reply(self, id: object, what: str, sending: Awaitable[None]) -> dict[str, Any]:
        """Await ``sending``; return the frame with this id, which is ``what`` is missing if it does not arrive."""
        __tracebackhide__ = True
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[id] = reply
        try:
            await sending
            async with real_timeout(REPLY_TIMEOUT):
                return await reply
        except TimeoutError:
            raise AssertionError(f"no {what} came within {REPLY_TIMEOUT:g} s") from None
        finally:
            del self._replies[id]

    async def _read(self) -> None:
        """Receive frames until the connection ends. Replies go to their requests, all others to ``events``."""
        while (message := await self._socket.receive()).type is WSMsgType.TEXT:
            frame = message.json()
            self._note_position(frame)
            is_barrier = frame["type"] == BARRIER
            reply = self._replies.get(frame["data"]["name"] if is_barrier else frame.get("id"))
            if reply is None:
                if not is_barrier:
                    self.events.append(frame)
                    self._changed.set()
            elif not reply.done():
                reply.set_result(frame)
        self._end = self._close_of(message)
        self._changed.set()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(Disconnected(*self._end))

    def _note_position(self, frame: Mapping[str, Any]) -> None:
        """Note which rooms are joined, and the last event in each, as ``rooms.js`` does."""
        type, id, data = frame["type"], frame.get("id"), frame.get("data") or {}
        room: str | None = frame.get("room")
        if type == "left_room" and room is not None:
            self._rooms.pop(room, None)
            self._positions.pop(room, None)
        elif type == "joined_room" and room is not None:
            self._rooms[room] = None
        if type in ("joined_room", "connected", "resync"):
            last_id = data.get("last_id")
            # After a resume, the missed events follow. In a room without events, the new id stays valid for longer.
            follows = data.get("recovered") and not str(last_id).endswith("-0")
            if last_id is not None and not (follows and room in self._positions):
                self._positions[room] = last_id
        elif isinstance(id, str) and id not in self._sent_ids and (room is None or room in self._rooms):
            self._positions[room] = id

    def _close_of(self, message: WSMessage) -> tuple[int, str]:
        if message.type is WSMsgType.CLOSE:
            return message.data or 1005, message.extra or ""
        return self._socket.close_code or 1006, ""


def _refused(data: Mapping[str, Any]) -> Refused:
    """Return the exception for the data of an ``error`` frame. Its note shows the code and the fields in failures."""
    refused = Refused(data["code"], data["error"], data.get("fields"))
    fields = "".join(f"\n  {name}: {problem}" for name, problem in (refused.fields or {}).items())
    refused.add_note(f"code: {refused.code}{fields}")
    return refused


#: The type of the fixture ``connect``, for annotations; see ``LiveGateway.connect``.
Connect = Callable[..., Awaitable[Client]]
