"""The WebSocket clients of a soak: they connect, join, publish, leave, disconnect and resume at random."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import orjson
import websockets
from shell import SECRET
from soak_ledger import text_of
from soak_room_view import RoomView
from soak_world import PATIENCE, PAUSE, RETRYABLE, PendingMessage, World
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token


class ConnectionEnded(Exception):
    """The connection has ended, or its node does not reply in time."""


class Tab:
    """A client with at most one connection, to a random node. It resumes from the last events that it received.

    ``views`` are its rooms, ``personal`` is the room of its user. With ``publishes`` it sends messages to its rooms.
    """

    def __init__(self, world: World, name: str, user: int, rooms: Sequence[str], *, publishes: bool) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.node = world.nodes[0]
        self.views = {room: RoomView(world.ledger, name, room) for room in rooms}
        self.personal = RoomView(world.ledger, name, f"user:{user}")
        self._publishes = publishes
        self._ledger = world.ledger
        self._random = world.random(name)
        self._token = make_token(SECRET, user_id=user, username=f"u{user}", rooms=["*"])
        self._socket: ClientConnection | None = None
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._pending: PendingMessage | None = None
        #: True if the client itself ended the connection.
        self._closing = False
        #: ``_expected_closes`` when the connection was opened.
        self._closes_before = (0, 0)

    @property
    def is_in_all_rooms(self) -> bool:
        """Return True if the client is in all its rooms."""
        return all(view.is_member for view in (self.personal, *self.views.values()))

    @property
    def is_idle(self) -> bool:
        """Return True if no message waits for its acknowledgement."""
        return self._pending is None

    async def run(self) -> None:
        """Connect and disconnect until the run is over."""
        while not self.world.over.is_set():
            socket = await self._connect()
            if socket is None:
                await self.world.pause(self._random.uniform(0.1, 0.8), self.world.over)
                continue
            await self._use(socket)
            long = self._random.random() < 0.05
            await self.world.pause(self._random.uniform(5, 15) if long else self._random.uniform(0, 1), self.world.calm)
        self._give_up()

    # Connecting

    async def _connect(self) -> ClientConnection | None:
        self.node = self._random.choice(self.world.nodes)
        self._closes_before = self._expected_closes()
        query = urlencode({"token": self._token, "since": self.personal.resume_from() or ""})
        try:
            socket = await websockets.connect(
                f"{self.node.ws}?{query}",
                proxy=None,
                compression=None,
                open_timeout=PATIENCE,
                close_timeout=1,
                ping_interval=None,
                max_queue=None,
            )
        except (OSError, TimeoutError, websockets.InvalidHandshake, EOFError):
            self._ledger.counts["connections: no node there"] += 1
            return None
        if await self._is_admitted(socket):
            return socket
        socket.transport.abort()
        return None

    async def _is_admitted(self, socket: ClientConnection) -> bool:
        """Read the first frame. Return False if the server refuses the connection or does not reply."""
        try:
            async with asyncio.timeout(PATIENCE):
                frame = orjson.loads(await socket.recv())
        except TimeoutError:
            self._ledger.counts["connections: no answer"] += 1
            return False
        except websockets.ConnectionClosed as end:
            code = 1006 if end.rcvd is None else end.rcvd.code
            self._ledger.counts[f"connections: refused with {code}"] += 1
            if code not in (4429, 4500, 1012, 1006):
                self._ledger.violate("closed without cause", self.name, f"refused with {code}")
            return False
        self._ledger.counts["connections"] += 1
        self._ledger.note(self.name, f"connected to {self.node.name}")
        self.personal.on_joined(frame["data"]["recovered"], frame["data"]["last_id"])
        return True

    async def _use(self, socket: ClientConnection) -> None:
        """Read frames and act at random, then end the connection. Check that nothing else ended it."""
        self._socket, self._closing = socket, False
        self.world.add(self)
        reader = asyncio.create_task(self._read(socket))
        with suppress(ConnectionEnded):
            await self._act()
        await self._close(socket, reader)
        with suppress(websockets.ConnectionClosed):
            await reader
        self._socket = None
        if not self._closing and self._expected_closes() == self._closes_before:
            code, reason = socket.close_code, socket.close_reason
            what = f"{self.node.name} closed the connection with {code} {reason!r} without a fault or an order"
            self._ledger.violate("closed without cause", self.name, what)

    def _expected_closes(self) -> tuple[int, int]:
        """Return counters that grow when a fault or the operator ends connections of this client."""
        return self.node.shutdowns, self.world.disconnected.get(self.user, 0)

    async def _close(self, socket: ClientConnection, reader: asyncio.Task[None]) -> None:
        """End the connection unless it has ended: half the time with a close frame, otherwise by a reset."""
        if not reader.done():
            self._closing = True
            self._on_ended("closes")
            if self._random.random() < 0.5 and not self.world.over.is_set():
                socket.transport.abort()
            else:
                await socket.close()

    def _on_ended(self, how: str) -> None:
        """Remove the connection from the world, and cancel requests without a reply."""
        self.world.open.get(self.user, set()).discard(self)
        for view in (self.personal, *self.views.values()):
            view.on_left(f"the connection {how}")
        for reply in self._replies.values():
            if not reply.done():
                reply.cancel()
        self._replies.clear()

    # Receiving

    async def _read(self, socket: ClientConnection) -> None:
        try:
            while True:
                frame = orjson.loads(await socket.recv())
                if not self._closing:
                    self._on_frame(frame)
        finally:
            self._on_ended("has ended")

    def _on_frame(self, frame: dict[str, Any]) -> None:
        room = frame.get("room") or self.personal.room
        view = self.personal if room == self.personal.room else self.views.get(room)
        kind = frame["type"]
        if view is None:
            self._ledger.violate("foreign room", self.name, f"it is not in {room}, but got {frame}")
        elif kind == "joined_room":
            view.on_joined(frame["data"]["recovered"], frame["data"]["last_id"])
        elif kind == "left_room":
            view.on_left("left")
        elif kind == "resync":
            view.on_resync(frame["data"]["last_id"])
        elif kind == "error":
            self._on_error(frame)
        elif kind in ("user_joined", "user_left"):
            return  # live only: without an id, nothing tells whether one is missing
        elif kind not in ("sent", "pong"):
            view.on_event(frame["id"], text_of(frame))
            return
        reply = self._replies.pop(frame.get("id", ""), None)
        if reply is not None and not reply.done():
            reply.set_result(frame)

    def _on_error(self, frame: dict[str, Any]) -> None:
        code = frame["data"]["code"]
        self._ledger.counts[f"refused: {code}"] += 1
        self._ledger.note(self.name, f"refused: {frame}")
        if code not in RETRYABLE and code != "not_joined":  # after a kick that it has not received yet
            self._ledger.violate("wrong answers", self.name, f"refused: {frame}")

    # Requests

    async def _request(self, type: str, room: str | None = None, data: Any = None, **more: Any) -> dict[str, Any]:
        """Send a request and return its reply. Raises ``ConnectionEnded`` if there is none."""
        id = f"{self.name}-{next(self._numbers)}"
        given = {"type": type, "room": room, "data": data, "id": id, **more}
        reply = self._replies[id] = asyncio.get_running_loop().create_future()
        assert self._socket is not None
        try:
            await self._socket.send(orjson.dumps({k: v for k, v in given.items() if v is not None}).decode())
            async with asyncio.timeout(2 * PATIENCE):
                answer: dict[str, Any] = await reply
                return answer
        except (TimeoutError, websockets.ConnectionClosed):
            raise ConnectionEnded from None
        except asyncio.CancelledError:
            if reply.cancelled():
                raise ConnectionEnded from None
            raise

    async def is_alive(self) -> bool:
        """Return True if the server still replies on the connection."""
        if self._socket is None or self._closing:
            return False
        try:
            await self._request("ping")
        except ConnectionEnded:
            return False
        return True

    async def _join(self, view: RoomView) -> None:
        """Join, and retry until the client is in the room or the connection ends."""
        while not view.is_member:
            reply = await self._request("join_room", view.room, {"since": view.resume_from()})
            if reply["type"] == "error":
                await asyncio.sleep(PAUSE)

    # Random actions

    async def _act(self) -> None:
        """Join rooms, then join, leave and publish at random for some seconds; in the calm phase, stay."""
        for view in self._choose_rooms():
            await self._join(view)
        end = asyncio.get_running_loop().time() + self._random.expovariate(1 / 4)
        while self.world.calm.is_set() or asyncio.get_running_loop().time() < end:
            if self.world.over.is_set():
                return
            if self.world.calm.is_set():
                for view in self.views.values():
                    await self._join(view)
            elif self._random.random() < 0.2:
                await self._join_or_leave()
            await self._publish_some()

    def _choose_rooms(self) -> list[RoomView]:
        return [view for view in self.views.values() if self.world.calm.is_set() or self._random.random() < 0.8]

    async def _join_or_leave(self) -> None:
        view = self._random.choice(list(self.views.values()))
        if view.is_member:
            await self._request("leave_room", view.room)
        else:
            await self._join(view)

    async def _publish_some(self) -> None:
        """Publish a new message, or retry the pending one."""
        if self._pending is None and self._publishes and self.world.publishing:
            room = self._random.choice(list(self.views))
            self._pending = PendingMessage(room, self.name, next(self._numbers))
            self._ledger.counts["published"] += 1
        if self._pending is not None:
            await self._publish(self._pending)
        await self.world.pause(self._random.uniform(0.05, 0.2), self.world.over)
        if self._socket is None or not self.world.open.get(self.user, set()) & {self}:
            raise ConnectionEnded

    async def _publish(self, message: PendingMessage) -> None:
        await self._join(self.views[message.room])
        if message.attempts:
            self._ledger.counts["retried"] += 1
        message.attempts += 1
        reply = await self._request("send_message", message.room, {"content": message.text}, key=message.key)
        if reply["type"] == "sent":
            self._ledger.acknowledged(message.room, reply["data"]["event_id"], message.text, self.name)
            self._pending = None
        else:
            await asyncio.sleep(PAUSE)
            if message.is_overdue:
                self._give_up()

    def _give_up(self) -> None:
        if self._pending is not None:
            self._ledger.counts["given up"] += 1
            self._pending = None
