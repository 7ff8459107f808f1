"""One user's connection in a feature soak: it sends random requests, and checks every frame that it receives."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import orjson
import websockets
from feature_record import Record, parse
from feature_view import View
from shell import SECRET
from soak_nodes import Node
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token

ROOMS = tuple(f"channel:{number}" for number in range(1, 5))
#: These users send no messages, so that the number of messages that they have not read is known exactly.
READERS = (5, 6)
#: How long a reply may take while no fault is at work, in seconds.
PATIENCE = 15.0
#: Errors that faults may cause.
FAULTS = ("unavailable", "in_progress", "timeout")


class Phase:
    """The phase of a soak: clients act at random; then ``is_calm``, they join all rooms and stay; then ``is_over``."""

    def __init__(self) -> None:
        self.is_calm = self.is_over = False


class _Sent(NamedTuple):
    """A request without a reply, and the state of its room when it was sent."""

    type: str
    data: dict[str, Any]
    #: The epoch of the room, and the offset in it that the user is known to have marked.
    marked: tuple[str, int]
    #: True if the client was a member and was not about to join or leave.
    is_steady: bool
    #: ``View.changes``.
    changes: int


class Client:
    """One connection of a user at a time, to a random node. ``views`` has all rooms."""

    def __init__(
        self, record: Record, phase: Phase, nodes: Sequence[Node], user: int, name: str, seed: str, *, repeats: bool
    ) -> None:
        self.record = record
        self._phase = phase
        self._nodes = nodes
        self.user = user
        self.name = name
        self._random = random.Random(f"{seed} {name}")
        self._token = make_token(SECRET, user_id=user, username=f"u{user}", rooms=["*"])
        self.views = {room: View(self.record, name, user, room) for room in ROOMS}
        self._numbers = itertools.count(1)
        self._requests: dict[int, _Sent] = {}
        #: True if the nodes remember keys when they restart.
        self._may_repeat = repeats
        self._repeats: list[tuple[str, str, dict[str, Any], str]] = []
        self._own: list[tuple[str, str]] = []
        self._socket: ClientConnection

    async def run(self) -> None:
        """Connect, act and disconnect, until the soak is over."""
        while not self._phase.is_over:
            node = self._random.choice(self._nodes)
            start = time.monotonic()
            try:
                async with websockets.connect(
                    f"{node.ws}?token={self._token}",
                    proxy=None,
                    compression=None,
                    ping_interval=None,
                    max_queue=None,
                    close_timeout=1,
                ) as self._socket:
                    reader = asyncio.create_task(self._read(self._socket))
                    try:
                        await self._act(node, reader, start)
                    finally:
                        reader.cancel()
                        await asyncio.wait([reader])
                        if not reader.cancelled():
                            reader.result()
            except (OSError, TimeoutError, websockets.WebSocketException):
                await asyncio.sleep(self._random.uniform(0.1, 0.5))
            self.record.counts["connections"] += 1
            self._requests.clear()
            for view in self.views.values():
                view.on_left()
                view.changing = 0

    async def _act(self, node: Node, reader: asyncio.Task[None], start: float) -> None:
        end = start + self._random.expovariate(1 / 8)
        for room in ROOMS:
            if self._random.random() < 0.7:
                await self._join(room)
        while not reader.done() and not self._phase.is_over and (time.monotonic() < end or self._phase.is_calm):
            if self._phase.is_calm:
                for room, view in self.views.items():
                    if not view.is_member and not view.changing:
                        await self._join(room, presence=True)
            else:
                for _ in range(self._random.choice((1, 1, 1, 8))):
                    await self._act_once(self._random.choice(ROOMS))
            await asyncio.sleep(self._random.expovariate(1 / 0.08))
        if reader.done():
            return
        if self._random.random() < 0.5 and not self._phase.is_over:
            self._socket.transport.abort()
            return
        deadline = time.monotonic() + PATIENCE
        while self._requests and time.monotonic() < deadline and not reader.done():
            await asyncio.sleep(0.05)
        if self._requests and not reader.done():
            what = f"{self.name} at {node.name}, {time.strftime('%X')}: {self._requests}"
            self.record.problem("no reply", what)

    async def _act_once(self, room: str) -> None:
        weights = {
            self._type: 4,
            self._set_status: 1,
            self._mark: 3,
            self._history: 4,
            self._join: 4,
            self._leave: 1,
            self._stall: 0.3,
        }
        if self.user not in READERS:
            weights |= {self._send: 10, self._edit: 4, self._delete: 2}
        (action,) = self._random.choices(list(weights), list(weights.values()))
        await action(room)

    # Requests

    async def _request(self, type: str, room: str, data: dict[str, Any], key: str | None = None) -> None:
        id = next(self._numbers)
        view = self.views[room]
        marked = (view.epoch, self.record.marked.get((self.user, room, view.epoch), 0))
        is_steady = view.is_member and not view.changing
        self._requests[id] = _Sent(type, data, marked, is_steady, view.changes)
        self.record.counts[f"sent: {type}"] += 1
        frame = {"type": type, "room": room, "data": data, "id": id}
        if key is not None:
            frame["key"] = key
        await self._socket.send(orjson.dumps(frame).decode())

    def _key(self) -> str | None:
        return f"{self.name}-{next(self._numbers)}" if self._random.random() < 0.5 else None

    def _text(self, room: str, key: str | None) -> str:
        text = f"{room} {self.name} {next(self._numbers)} "
        self.record.keys[text] = key
        return text + "x" * (self._random.choice((0, 0, 0, 0, 10, 100, 8000)))

    async def _send(self, room: str) -> None:
        if self._repeats and self._random.random() < 0.3:
            type, room, data, key = self._repeats.pop(0)
            await self._request(type, room, data, key=key)
            return
        key = self._key()
        data = {"content": self._text(room, key)}
        if key and self._may_repeat and self._random.random() < 0.5:
            self._repeats.append(("send_message", room, data, key))
        await self._request("send_message", room, data, key=key)

    async def _edit(self, room: str) -> None:
        if self._own:
            room, id = self._random.choice(self._own[-20:])
            key = self._key()
            await self._request("edit_message", room, {"message_id": id, "content": self._text(room, key)}, key=key)

    async def _delete(self, room: str) -> None:
        if self._own:
            room, id = self._random.choice(self._own[-20:])
            key = self._key()
            self.record.deletions.setdefault(id, set()).add(key)
            await self._request("delete_message", room, {"message_id": id}, key=key)

    async def _type(self, room: str) -> None:
        await self._request("typing", room, {"typing": self._random.random() < 0.7})

    async def _set_status(self, room: str) -> None:
        await self._request("set_presence", room, {"status": self._random.choice(("away", "busy", None))})

    async def _mark(self, room: str) -> None:
        view = self.views[room]
        if view.last_id is not None and view.epoch == parse(view.last_id)[0]:
            epoch, offset = parse(view.last_id)
            offset = max(1, offset - self._random.choice((0, 0, 1, 5, 30)))
            key = (self.user, room, epoch)
            self.record.asked[key] = max(self.record.asked.get(key, 0), offset)
            await self._request("mark_read", room, {"event_id": f"{epoch}-{offset}"})

    async def _history(self, room: str) -> None:
        data: dict[str, Any] = {"limit": self._random.choice((1, 7, 50, 200))}
        id = self.views[room].last_id
        if id is not None and (choice := self._random.random()) < 0.7:
            epoch, offset = parse(id)
            data["before" if choice < 0.35 else "since"] = f"{epoch}-{max(1, offset - self._random.randrange(100))}"
        await self._request("history", room, data)

    async def _join(self, room: str, presence: bool = False) -> None:
        data: dict[str, Any] = {}
        view = self.views[room]
        if self._random.random() < 0.5:
            data["since"] = view.last_id
            if view.last_id is not None and self._random.random() < 0.3:
                epoch, offset = parse(view.last_id)
                data["since"] = f"{epoch}-{max(1, offset - self._random.randrange(60))}"
        if self._random.random() < 0.5:
            data["last"] = self._random.choice((1, 3, 20, 200))
        if presence or self._random.random() < 0.5:
            data["presence"] = True
        view.changing += 1
        await self._request("join_room", room, data)

    async def _leave(self, room: str) -> None:
        self.views[room].changing += 1
        await self._request("leave_room", room, {})

    async def _stall(self, room: str) -> None:
        """Read nothing for a moment, so that the server must wait."""
        transport = self._socket.transport
        transport.pause_reading()
        await asyncio.sleep(self._random.uniform(0.1, 1.5))
        with suppress(RuntimeError):
            transport.resume_reading()

    # Replies

    async def _read(self, socket: ClientConnection) -> None:
        with suppress(websockets.ConnectionClosed):
            async for text in socket:
                self._on_frame(orjson.loads(text))
        code = socket.close_code
        self.record.counts[f"closed: {code}"] += 1

    def _on_frame(self, frame: dict[str, Any]) -> None:
        type, room = frame["type"], frame.get("room")
        is_stored = isinstance(frame.get("id"), str)
        for view in self.views.values():
            if not (is_stored and view.room == room):
                view.on_frame()
        if type == "connected":
            return
        if room is None:
            self.record.problem("frame", f"{self.name} received {frame}")
            return
        view = self.views[room]
        if is_stored:
            view.on_event(frame)
        elif isinstance(frame.get("id"), int):
            self._on_reply(view, frame)
        elif type == "resync":
            view.on_resync(frame["data"]["last_id"])
        elif type == "marked_read":
            self.record.counts["marks of other connections"] += 1
            view.on_marked(frame["data"], "other connection")
        elif type in ("user_joined", "user_left", "user_updated", "typing"):
            view.on_live(frame)
        else:
            self.record.problem("frame", f"{self.name} received {frame}")

    def _on_reply(self, view: View, frame: dict[str, Any]) -> None:
        request = self._requests.pop(frame["id"], None)
        if request is None:
            self.record.problem("two replies", f"{self.name} received {frame}")
            return
        type, asked, data = request.type, request.data, frame["data"]
        if type in ("join_room", "leave_room"):
            view.changing -= 1
            view.changes += 1
        self.record.counts[f"reply: {frame['type']}"] += 1
        if frame["type"] == "error":
            self._on_error(view, request, frame)
        elif type == "join_room":
            view.on_joined(data, asked, request.marked)
        elif type == "leave_room":
            view.on_left()
        elif type == "history":
            view.on_history(asked, data)
        elif type == "mark_read":
            self._on_marked(view, asked, data)
        elif type in ("send_message", "edit_message"):
            text = asked["content"].rstrip("x")
            if self.record.acknowledged.setdefault(text, data["event_id"]) != data["event_id"]:
                self.record.problem("wrong reply", f"{self.name}: {asked} was {data}")
            if type == "send_message":
                self._own.append((view.room, data["event_id"]))

    def _on_marked(self, view: View, asked: dict[str, Any], data: dict[str, Any]) -> None:
        epoch, offset = parse(data["event_id"])
        key = (self.user, view.room, epoch)
        if offset < parse(asked["event_id"])[1]:
            self.record.problem("mark", f"{self.name}: {asked} was answered with {data}")
        self.record.marked[key] = max(self.record.marked.get(key, 0), offset)
        view.on_marked(data, "reply")

    def _on_error(self, view: View, request: _Sent, frame: Mapping[str, Any]) -> None:
        code = frame["data"]["code"]
        self.record.counts[f"refused: {request.type} {code}"] += 1
        if code in FAULTS:
            return
        is_steady = request.is_steady and view.is_member and not view.changing and view.changes == request.changes
        if code == "not_joined" and not is_steady:
            return
        if code == "not_found" and request.type in ("edit_message", "delete_message", "mark_read"):
            return
        self.record.problem("refused", f"{self.name}: {request} was answered with {frame}")
