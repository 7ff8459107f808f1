"""``roomcast listen``: the events of rooms, a line each, over lost connections and restarts of the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from ..errors import RoomcastError
from ..logs import escape
from .websocket_client import End, Ended, Stream, Target, Unreachable

#: Waits before the next attempt to connect: up to this many seconds at first, twice as many each time, and at most so
#: many. The wait is drawn between half of it and all, so that listeners do not return in step.
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 30.0
#: After so many seconds without a sign of life the server is asked for one; after as many more it counts as gone.
SILENCE: Final = 45.0

_ACCESS: Final = "its rooms claim, or the rule of the room's type, must allow it; see `roomcast token --room`"

#: Ends after which another attempt would end the same way, each with what to do.
FINAL_ENDS: Final = {
    4401: "The server does not accept the token (4401): it is wrong, expired, or signed with another secret; its log "
    "says which. Get a new one with `roomcast token`.",
    4403: f"The token gives no access to the room (4403): {_ACCESS}.",
    4410: "An operator has disconnected this user (4410).",
    4429: "The user has as many connections as allowed (4429): close another one, or raise MAX_CONNECTIONS_PER_USER on "
    "the server.",
}


class Listener:
    """Joins ``rooms`` and prints their events, and those of the user's own room, which nobody needs to join.

    ``token`` gives the token for each attempt to connect. ``since`` is the id to resume the one room from. ``out`` is
    given the lines of events, ``note`` the sentences about the connection.
    """

    def __init__(
        self,
        target: Target,
        rooms: Sequence[str],
        token: Callable[[], str],
        *,
        since: str | None = None,
        raw: bool = False,
        out: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._target = target
        self._token = token
        self._raw = raw
        self._out = out
        self._note = note
        #: Where each room stands: the id of the last event seen, or None before the first answer.
        self._seen: dict[str, str | None] = dict.fromkeys(rooms, since)
        #: Where the user's own room stands; empty before the first welcome.
        self._own = ""
        self._joined: set[str] = set()
        self._wait = FIRST_WAIT

    async def run(self) -> None:
        """Listen for good. Raises ``RoomcastError`` when that is over, or if there is no server at the start."""
        stream = await self._open(first=True)
        while True:
            try:
                await self._follow(stream)
            except Ended as ended:
                self._give_up(ended.end)
                self._note(f"Disconnected ({ended.end}).")
            stream = await self._open(first=False)

    async def _open(self, *, first: bool) -> Stream:
        """Connect, over and over; the first time only once, since there the address may be wrong."""
        while True:
            if not first:
                pause = self._wait * random.uniform(0.5, 1)  # noqa: S311
                self._wait = min(self._wait * 2, LONGEST_WAIT)
                self._note(f"Connecting again in {pause:.1f} s.")
                await asyncio.sleep(pause)
            try:
                return await Stream.open(self._resuming(), self._token())
            except Unreachable as error:
                if first:
                    raise
                self._note(str(error))
            except Ended as ended:
                self._give_up(ended.end)
                if first:
                    raise RoomcastError(f"{self._target.authority} did not open a WebSocket: {ended.end}.") from ended
                self._note(str(ended))

    def _resuming(self) -> Target:
        """Return the target that asks for what was missed of the user's own room."""
        path = self._target.path
        return self._target._replace(path=f"{path}{'&' if '?' in path else '?'}since={self._own}")

    def _give_up(self, end: End) -> None:
        if sentence := FINAL_ENDS.get(end.code):
            raise RoomcastError(sentence)
        if 400 <= end.code < 500 or end.code in (1002, 1003, 1007, 1009):
            raise RoomcastError(f"{self._target.authority} refused the connection ({end}).")

    async def _follow(self, stream: Stream) -> None:
        """Join the rooms, then take what comes until the connection ends, which raises ``Ended``."""
        self._joined = set()
        for room, seen in self._seen.items():
            join = {"type": "join_room", "room": room, "data": {"since": seen}}
            stream.send(orjson.dumps(join))
        try:
            while True:
                self._take(await self._receive(stream))
        finally:
            stream.close()

    async def _receive(self, stream: Stream) -> bytes:
        try:
            async with asyncio.timeout(SILENCE):
                return await stream.receive()
        except TimeoutError:
            stream.send(b'{"type":"ping"}')
        try:
            async with asyncio.timeout(SILENCE):
                return await stream.receive()
        except TimeoutError:
            raise Ended(End(1006, "no sign of life from the server")) from None

    def _take(self, frame: bytes) -> None:
        message = orjson.loads(frame)
        type, room, data = message.get("type"), message.get("room"), message.get("data") or {}
        if type == "connected":
            self._greet(data)
        elif type == "joined_room":
            self._enter(room, data)
        elif type == "resync":
            self._note(f"{room or 'To the user'}: events were lost on the server.")
            self._stand(room, data.get("last_id"))
        elif type == "error":
            hint = f" (4403): {_ACCESS}." if data.get("code") == "forbidden" else ""
            raise RoomcastError(f"{room or 'The server'}: {str(data.get('error')).rstrip('.')}{hint or '.'}")
        elif type == "left_room":
            raise RoomcastError(f"{data.get('message')}, by an operator.")
        elif type != "pong":
            self._stand(room, message.get("id"))
            self._out(frame.decode() if self._raw else line(message))

    def _stand(self, room: str | None, id: str | None) -> None:
        """Note the last event of a room, or without one of the user's own."""
        if id is not None and room is None:
            self._own = id
        elif id is not None and room in self._seen:
            self._seen[room] = id

    def _greet(self, data: dict[str, Any]) -> None:
        if self._own and not data.get("recovered"):
            self._note("What was sent to the user may have been missed: the server's history does not go back.")
        if not data.get("recovered"):
            self._stand(None, data.get("last_id"))
        if not self._seen:
            self._note(f"Listening to what is sent to user {data.get('user_id')}.")
            self._wait = FIRST_WAIT

    def _enter(self, room: str, data: dict[str, Any]) -> None:
        asked = self._seen.get(room)
        if asked is None:
            self._note(f"Listening in {room}.")
        elif data.get("recovered"):
            self._note(f"Listening in {room} again; nothing was missed.")
        else:
            self._note(
                f"Listening in {room} again; events may have been missed: the server's history does not go back."
            )
        if asked is None or not data.get("recovered"):
            self._seen[room] = data.get("last_id")
        self._joined.add(room)
        if len(self._joined) == len(self._seen):
            self._wait = FIRST_WAIT


def line(message: dict[str, Any]) -> str:
    """Return an event as a line for eyes: time, room, type, sender, data. ``-`` stands for no room or sender."""
    words = [message.get("timestamp"), message.get("room"), message.get("type"), message.get("sender")]
    data = orjson.dumps(message.get("data")).decode()
    return escape(" ".join([*(str(word or "-") for word in words), data]))
