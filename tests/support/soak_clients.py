"""The clients of a soak: members that come, go, die and resume, publishers that ask again until they are answered."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
import websockets
from shell import SECRET
from soak_ledger import Ledger, View, text_of
from soak_nodes import Node, lost
from websockets.asyncio.client import ClientConnection

from roomcast.auth.identity import make_token

#: How long a client waits for a node that may be stopped, and a publisher goes on asking with one key, in seconds.
PATIENCE = 4.0
PERSISTENCE = 20.0
#: The pause before asking again, in seconds.
PAUSE = 0.3

#: Errors that a client may meet while something is broken, and that say that it may ask again.
TEMPORARY = {"unavailable", "in_progress", "timeout"}


class Ended(Exception):
    """The connection has ended, or its node no longer answers."""


class World:
    """What all clients share. ``limit`` is the nodes' MAX_CONNECTIONS_PER_USER.

    When ``calm`` is set, members go to all their rooms and stay; when ``publishing`` is not, publishers end.
    """

    def __init__(self, nodes: Sequence[Node], ledger: Ledger, limit: int, seed: str) -> None:
        self.nodes = nodes
        self.ledger = ledger
        self.limit = limit
        self.seed = seed
        self.calm = asyncio.Event()
        self.over = asyncio.Event()
        self.publishing = True
        #: Those that were welcomed and have not ended, by user.
        self.open: dict[int, set[Tab]] = {}
        #: How often a user was disconnected by an operator.
        self.disconnected: dict[int, int] = {}
        #: Checks of the limit that are under way.
        self.checks: set[asyncio.Task[None]] = set()
        #: Until when too many connections of a user are not held against the nodes, in the loop's time.
        self.pardon = 0.0

    def random(self, who: str) -> random.Random:
        """Chance for one actor, by the seed."""
        return random.Random(f"{self.seed}/{who}")

    async def pause(self, seconds: float, until: asyncio.Event) -> None:
        """Wait, but not past ``until``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until.wait()

    def welcomed(self, tab: Tab) -> None:
        """Count a connection, and see whether its user has too many."""
        tabs = self.open.setdefault(tab.user, set())
        tabs.add(tab)
        if len(tabs) > self.limit:
            task = asyncio.create_task(self._prove(tab.user, set(tabs)))
            self.checks.add(task)
            task.add_done_callback(self.checks.discard)

    async def _prove(self, user: int, tabs: set[Tab]) -> None:
        """Too many, if all of them are answered to what they ask now: one that ended may not know it yet."""
        answers = await asyncio.gather(*(tab.is_alive() for tab in tabs))
        if sum(answers) > self.limit:
            names = ", ".join(f"{tab.name} on {tab.node.name}" for tab in sorted(tabs, key=lambda tab: tab.name))
            if asyncio.get_running_loop().time() < self.pardon:
                self.ledger.counts["above the limit, pardoned"] += 1
                self.ledger.note(f"user {user}", f"above the limit, pardoned: {names}")
            else:
                what = f"{sum(answers)} connections are open, {self.limit} are allowed: {names}"
                self.ledger.violate("above the limit", f"user {user}", what)


class Said:
    """Something a publisher says: it asks until it is told the id, or gives up after ``PERSISTENCE``."""

    def __init__(self, room: str, who: str, number: int) -> None:
        self.room = room
        self.text = f"{room} {who} {number}"
        self.key = f"{who}-{number}"
        self.asked = 0
        self.until = asyncio.get_running_loop().time() + PERSISTENCE

    @property
    def given_up(self) -> bool:
        return asyncio.get_running_loop().time() > self.until


class Tab:
    """A client with one connection at a time, on any node; it keeps what it has seen, and resumes from there."""

    def __init__(self, world: World, name: str, user: int, rooms: Sequence[str], *, publishes: bool) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.node = world.nodes[0]
        self._publishes = publishes
        self._ledger = world.ledger
        self._random = world.random(name)
        self.views = {room: View(world.ledger, name, room) for room in rooms}
        self.personal = View(world.ledger, name, f"user:{user}")
        self._token = make_token(SECRET, user_id=user, username=f"u{user}", rooms=["*"])
        self._socket: ClientConnection | None = None
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._said: Said | None = None
        self._closing = False
        self._before = (0, 0)

    @property
    def is_home(self) -> bool:
        """Whether it is in all its rooms."""
        return all(view.inside for view in (self.personal, *self.views.values()))

    async def run(self) -> None:
        """Come and go until all is over."""
        while not self.world.over.is_set():
            socket = await self._connect()
            if socket is None:
                await self.world.pause(self._random.uniform(0.1, 0.8), self.world.over)
                continue
            await self._live(socket)
            long = self._random.random() < 0.05
            await self.world.pause(self._random.uniform(5, 15) if long else self._random.uniform(0, 1), self.world.calm)
        self._give_up()

    # Connecting.

    async def _connect(self) -> ClientConnection | None:
        self.node = self._random.choice(self.world.nodes)
        self._before = self._excuses()
        query = urlencode({"token": self._token, "since": self.personal.ask() or ""})
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
        if await self._is_welcome(socket):
            return socket
        socket.transport.abort()
        return None

    async def _is_welcome(self, socket: ClientConnection) -> bool:
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
        self.personal.joined(frame["data"]["recovered"], frame["data"]["last_id"])
        return True

    async def _live(self, socket: ClientConnection) -> None:
        """Be there: listen to what comes, do this and that, and end in some way."""
        self._socket, self._closing = socket, False
        self.world.welcomed(self)
        reader = asyncio.create_task(self._listen(socket))
        with suppress(Ended):
            await self._act()
        await self._end(socket, reader)
        with suppress(websockets.ConnectionClosed):
            await reader
        self._socket = None
        if not self._closing and self._excuses() == self._before:
            code, reason = socket.close_code, socket.close_reason
            what = (
                f"{self.node.name} closed the connection with {code} {reason!r}, and neither it nor anybody did a thing"
            )
            self._ledger.violate("closed without cause", self.name, what)

    def _excuses(self) -> tuple[int, int]:
        return self.node.ends, self.world.disconnected.get(self.user, 0)

    async def _end(self, socket: ClientConnection, reader: asyncio.Task[None]) -> None:
        """End the connection, unless it has: in order, or by dying without a word."""
        if not reader.done():
            self._ended("closes")
            if self._random.random() < 0.5 and not self.world.over.is_set():
                socket.transport.abort()
            else:
                await socket.close()

    def _ended(self, how: str) -> None:
        """From now on this connection counts no more."""
        self._closing = self._closing or how == "closes"
        self.world.open.get(self.user, set()).discard(self)
        for view in (self.personal, *self.views.values()):
            view.left(f"the connection {how}")
        for reply in self._replies.values():
            if not reply.done():
                reply.cancel()
        self._replies.clear()

    # Hearing.

    async def _listen(self, socket: ClientConnection) -> None:
        try:
            while True:
                frame = orjson.loads(await socket.recv())
                if not self._closing:
                    self._hear(frame)
        finally:
            self._ended("has ended")

    def _hear(self, frame: dict[str, Any]) -> None:
        room = frame.get("room") or self.personal.room
        view = self.personal if room == self.personal.room else self.views.get(room)
        kind = frame["type"]
        if view is None:
            self._ledger.violate("foreign room", self.name, f"it is not in {room}, but got {frame}")
        elif kind == "joined_room":
            view.joined(frame["data"]["recovered"], frame["data"]["last_id"])
        elif kind == "left_room":
            view.left("left")
        elif kind == "resync":
            view.resync(frame["data"]["last_id"])
        elif kind == "error":
            self._refused(frame)
        elif kind not in ("sent", "pong"):
            view.event(frame["id"], text_of(frame))
            return
        reply = self._replies.pop(frame.get("id", ""), None)
        if reply is not None and not reply.done():
            reply.set_result(frame)

    def _refused(self, frame: dict[str, Any]) -> None:
        code = frame["data"]["code"]
        self._ledger.counts[f"refused: {code}"] += 1
        self._ledger.note(self.name, f"refused: {frame}")
        if code not in TEMPORARY and code != "not_joined":  # a member that was kicked may not know it yet
            self._ledger.violate("wrong answers", self.name, f"refused: {frame}")

    # Asking.

    async def _ask(self, type: str, room: str | None = None, data: Any = None, **more: Any) -> dict[str, Any]:
        """Send a request and return its reply; raise ``Ended`` if there is none."""
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
            raise Ended from None
        except asyncio.CancelledError:
            if reply.cancelled():
                raise Ended from None
            raise

    async def is_alive(self) -> bool:
        """Whether the server still answers on this connection."""
        if self._socket is None or self._closing:
            return False
        try:
            await self._ask("ping")
        except Ended:
            return False
        return True

    async def _join(self, view: View) -> None:
        """Join until the room lets it in, or the connection ends."""
        while not view.inside:
            reply = await self._ask("join_room", view.room, {"since": view.ask()})
            if reply["type"] == "error":
                await asyncio.sleep(PAUSE)

    # Doing.

    async def _act(self) -> None:
        """Join rooms, stay a while, leave some, come back to some."""
        for view in self._some():
            await self._join(view)
        stays = asyncio.get_running_loop().time() + self._random.expovariate(1 / 4)
        while self.world.calm.is_set() or asyncio.get_running_loop().time() < stays:
            if self.world.over.is_set():
                return
            if self.world.calm.is_set():
                await self._settle()
            elif self._random.random() < 0.2:
                await self._change()
            await self._speak()

    def _some(self) -> list[View]:
        return [view for view in self.views.values() if self.world.calm.is_set() or self._random.random() < 0.8]

    async def _settle(self) -> None:
        for view in self.views.values():
            await self._join(view)

    async def _change(self) -> None:
        view = self._random.choice(list(self.views.values()))
        if view.inside:
            await self._ask("leave_room", view.room)
        else:
            await self._join(view)

    async def _speak(self) -> None:
        """Say something, or go on asking with what was not answered."""
        if self._said is None and self._publishes and self.world.publishing:
            room = self._random.choice(list(self.views))
            self._said = Said(room, self.name, next(self._numbers))
            self._ledger.counts["published"] += 1
        if self._said is not None:
            await self._say(self._said)
        await self.world.pause(self._random.uniform(0.05, 0.2), self.world.over)
        if self._socket is None or not self.world.open.get(self.user, set()) & {self}:
            raise Ended

    async def _say(self, said: Said) -> None:
        await self._join(self.views[said.room])
        if said.asked:
            self._ledger.counts["asked again"] += 1
        said.asked += 1
        reply = await self._ask("send_message", said.room, {"content": said.text}, key=said.key)
        if reply["type"] == "sent":
            self._ledger.acknowledged(said.room, reply["data"]["event_id"], said.text, self.name)
            self._said = None
        else:
            await asyncio.sleep(PAUSE)
            if said.given_up:
                self._give_up()

    def _give_up(self) -> None:
        if self._said is not None:
            self._ledger.counts["given up"] += 1
            self._said = None

    @property
    def is_silent(self) -> bool:
        """Whether it has nothing more to say."""
        return self._said is None


class Backend:
    """A publisher over HTTP: single events and lists, each request with an ``Idempotency-Key``."""

    def __init__(self, world: World, name: str, rooms: Sequence[str]) -> None:
        self._world = world
        self._name = name
        self._rooms = rooms
        self._random = world.random(name)
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Publish until there is no more publishing."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * PATIENCE)) as session:
            while self._world.publishing:
                count = self._random.choice((1, 1, 1, 4))
                await self._publish(session, [self._new() for _ in range(count)])
                await asyncio.sleep(self._random.uniform(0.03, 0.15))

    def _new(self) -> Said:
        self._world.ledger.counts["published"] += 1
        return Said(self._random.choice(self._rooms), self._name, next(self._numbers))

    async def _publish(self, session: aiohttp.ClientSession, said: list[Said]) -> None:
        """Ask one node after the other until it is done."""
        counts = self._world.ledger.counts
        events = [_event(one) for one in said]
        body = orjson.dumps(events[0] if len(events) == 1 else events)
        headers = {"Idempotency-Key": said[0].key}
        for number in itertools.count():
            if said[0].given_up:
                counts["given up"] += len(said)
                return
            counts["asked again"] += number > 0
            node = self._random.choice(self._world.nodes)
            try:
                status, answer = await node.call(session, "POST", "/api/v1/events", data=body, headers=headers)
            except lost:
                await asyncio.sleep(PAUSE)
                continue
            if status == 200:
                self._acknowledged(said, answer)
                return
            self._refused(node, status, answer)
            await asyncio.sleep(PAUSE)

    def _acknowledged(self, said: list[Said], answer: dict[str, Any]) -> None:
        ids = answer["ids"] if "ids" in answer else [answer["id"]]
        for one, id in zip(said, ids, strict=True):
            self._world.ledger.acknowledged(one.room, id, one.text, self._name)

    def _refused(self, node: Node, status: int, answer: dict[str, Any]) -> None:
        ledger = self._world.ledger
        ledger.counts[f"refused: {answer.get('code')}"] += 1
        if answer.get("code") not in TEMPORARY:
            ledger.violate("wrong answers", self._name, f"{node.name} answered {status}: {answer}")


def _event(said: Said) -> dict[str, Any]:
    if said.room.startswith("user:"):
        data = {"title": "soak", "message": said.text}
        return {"type": "notification.new", "room": said.room, "data": data}
    message = {"content": said.text, "username": "backend", "user_id": 0}
    return {"type": "message", "room": said.room, "data": message}
