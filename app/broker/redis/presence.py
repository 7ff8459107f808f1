"""Who is in which room, on all nodes together: each node writes how its own users stand, and renews a lease a room.

A room's presence is three keys with one hash tag (``presence.lua`` says what is in them), on the server's clock. A node
keeps a mirror of its own users. Whatever changes there is written as it is then, not as a step, with at most one write
of a room under way; what could not be written stays marked until it was. So the two agree in the end, whatever was lost
between, and what the others were told of a user is known: each coming and going is announced once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import orjson

from ...errors import Unavailable
from .. import connection_set
from ..base import Member, PresenceChange, UserId
from ..connection_set import ConnectionSet
from .calls import ScriptRunner, in_batches
from .scripts import Script

log = logging.getLogger("roomcast.redis")

_WRITE: Final = Script("now", "presence", "presence_write")
_RENEW: Final = Script("now", "presence", "presence_renew")
_LOOK: Final = Script("now", "presence", "presence_look")
_NOTE: Final = Script("now", "rooms_note")
_LIST: Final = Script("now", "rooms_list")

#: How many users one call writes: about 0.3 ms of the server's time.
_USERS: Final = 100
#: How many rooms one call notes.
_ROOMS: Final = 500
#: How long ``close`` may take to give everything back, in seconds; what is left then ends with its lease.
_CLOSING: Final = 2.0

#: A standing of this node in a room that scripts return.
_NONE, _ENDED = 0, 2

#: Tells that a user came or went without a call of this node's that returned it: the room, the user, users there now.
Told = Callable[[str, Member, int], None]


class _Room:
    """A room with members here: ``users``, their names and connections; how many there are on all nodes, last heard."""

    __slots__ = ("noted", "total", "users")

    def __init__(self) -> None:
        self.users: dict[UserId, tuple[str, ConnectionSet]] = {}
        self.total = 0
        self.noted = False


class _Doubt:
    """A user who may stand otherwise on the server than here.

    ``told`` is the name under which the others know of the user through this node, None if they do not.
    """

    __slots__ = ("renamed", "told", "waiters")

    def __init__(self, told: str | None) -> None:
        self.told = told
        self.renamed = False
        #: Who waits for the next write: whether it entered (or left), and what tells it.
        self.waiters: list[tuple[bool, asyncio.Future[PresenceChange]]] = []


class _Work:
    """What is to be written of a room: users in doubt, those of them that are next, and those to be written again."""

    __slots__ = ("again", "doubts", "queue", "task")

    def __init__(self) -> None:
        self.doubts: dict[UserId, _Doubt] = {}
        self.queue: dict[UserId, None] = {}
        self.again: list[UserId] = []
        self.task: asyncio.Task[None] | None = None


class Presence:
    """The presence of ``node``, an id that no other node has, with a ``lease`` in seconds in each room it has users in.

    ``on_member_lost`` is told of users that went without a call of ``leave`` that returned it: their node died, or they
    left while the server was away. ``on_member_returned`` is told of users whose coming is to be announced without a
    call of ``enter`` that returned it: they came while the server was away, or were taken for gone while this node
    stood still. Of all nodes exactly one is told. Both are called on the loop and must neither block nor raise.
    """

    def __init__(
        self, router: ScriptRunner, prefix: str, node: str, lease: float, on_member_lost: Told, on_member_returned: Told
    ) -> None:
        self._router: Final = router
        self._prefix: Final = prefix
        self._node: Final = node
        self._lease: Final = lease
        self._millis: Final = round(lease * 1000)
        self._on_gone: Final = on_member_lost
        self._on_back: Final = on_member_returned
        self._rooms: dict[str, _Room] = {}
        self._work: Final[dict[str, _Work]] = {}
        self._judge_from = 0.0
        self.hold()

    def hold(self) -> None:
        """Take no node for dead for one lease from now: the server was away, and others must be able to renew first."""
        self._judge_from = time.monotonic() + self._lease

    # Coming and going.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``. With ``Unavailable`` the user is in all the same, and announced when the server is back."""
        here = self._rooms.get(room)
        if here is None:
            here = self._rooms[room] = _Room()
        known = here.users.get(user_id)
        if known is not None and known[0] == username and connection_set.contains(known[1], connection):
            return PresenceChange(False, here.total)
        here.users[user_id] = (username, connection if known is None else connection_set.add(known[1], connection))
        renamed = known is None or known[0] != username
        return await self._changed(room, user_id, None if known is None else known[0], entered=True, renamed=renamed)

    async def leave(self, room: str, user_id: UserId, connection: int) -> PresenceChange:
        """See ``Broker``. Never raises ``Unavailable``: a user who leaves meanwhile is out, and announced later."""
        here = self._rooms.get(room)
        known = here.users.get(user_id) if here is not None else None
        if here is None or known is None or not connection_set.contains(known[1], connection):
            return PresenceChange(False, here.total if here is not None else 0)
        rest = connection_set.remove(known[1], connection)
        if rest is not None:
            here.users[user_id] = (known[0], rest)
        else:
            del here.users[user_id]
            if not here.users:
                del self._rooms[room]
        try:
            return await self._changed(room, user_id, known[0], entered=False)
        except Unavailable:
            return PresenceChange(False, here.total)

    def _changed(
        self, room: str, user_id: UserId, told: str | None, *, entered: bool, renamed: bool = False
    ) -> asyncio.Future[PresenceChange]:
        """Have the user written, whom the others knew as ``told`` before this change if no change is under way."""
        work = self._work_on(room)
        doubt = work.doubts.get(user_id)
        if doubt is None:
            doubt = work.doubts[user_id] = _Doubt(told)
        doubt.renamed |= renamed
        waiter: asyncio.Future[PresenceChange] = asyncio.get_running_loop().create_future()
        doubt.waiters.append((entered, waiter))
        work.queue[user_id] = None
        self._begin(room, work)
        return waiter

    # Writing.

    def _work_on(self, room: str) -> _Work:
        work = self._work.get(room)
        if work is None:
            work = self._work[room] = _Work()
        return work

    def _begin(self, room: str, work: _Work) -> asyncio.Task[None]:
        if work.task is None:
            work.task = asyncio.create_task(self._write_all(room, work), name=f"roomcast presence {room}")
        return work.task

    async def _write_all(self, room: str, work: _Work) -> None:
        """Write what is to be written until nothing is, or the server cannot be reached."""
        users: list[UserId] = []
        try:
            while users := self._next(room, work):
                await self._write(room, work, users)
        except Unavailable as error:
            _fail(work, [*users, *work.queue], error)
        except BaseException as error:
            _fail(work, [*users, *work.queue], Unavailable("This node is closing its broker."))
            if isinstance(error, Exception):
                log.exception("The presence in %s could not be written", room)
            else:
                raise
        finally:
            work.task = None
            if not work.doubts and not work.again:
                del self._work[room]

    def _next(self, room: str, work: _Work) -> list[UserId]:
        """Take the users that are to be written next; no write is under way."""
        users = dict.fromkeys(islice(work.queue, _USERS))
        for user_id in users:
            del work.queue[user_id]
        here = self._rooms.get(room)
        while work.again and len(users) < _USERS:
            user_id = work.again.pop()
            known = here.users.get(user_id) if here is not None else None
            if known is not None and user_id not in users:
                work.queue.pop(user_id, None)
                if user_id not in work.doubts:
                    work.doubts[user_id] = _Doubt(known[0])
                users[user_id] = None
        return list(users)

    async def _write(self, room: str, work: _Work, users: list[UserId]) -> None:
        """Write how ``users`` stand, and tell who is to be told."""
        here = self._rooms.get(room)
        expected = self._is_there(room)
        # A node with users still to be taken out keeps its lease, or they could never be reaped.
        stays = here is not None or len(work.doubts) > len(users)
        args: list[str | bytes | int] = ["1" if stays else "0"]
        taken = []
        for user_id in users:
            doubt = work.doubts[user_id]
            name, held = (here.users.get(user_id) if here is not None else None) or (doubt.told or "", None)
            connections = 0 if held is None else connection_set.size(held)
            known, renamed = doubt.told is not None, doubt.renamed
            args += json.dumps(user_id), name.encode(errors="replace"), connections, f"{known:d}", f"{renamed:d}"
            taken.append((user_id, doubt, name, connections, renamed, doubt.waiters))
            doubt.waiters, doubt.renamed = [], False
        try:
            reply = await self._ask_and_note(room, here, args)
        except BaseException as error:
            for _, doubt, _, _, renamed, waiters in taken:
                doubt.renamed |= renamed
                _tell_failed(waiters, error)
            raise
        standing, news, dead, total = reply
        self._heard(room, dead, total)
        if standing == _ENDED:
            self.hold()
        elif standing == _NONE and expected and not work.again:
            self._again(room, work)
        for (user_id, doubt, name, connections, _, waiters), is_news in zip(taken, news, strict=True):
            doubt.told = name if connections else None
            if user_id not in work.queue:
                del work.doubts[user_id]
            self._tell(room, Member(user_id, name, connections), bool(is_news), total, waiters)

    async def _ask_and_note(self, room: str, here: _Room | None, args: Sequence[str | bytes | int]) -> Any:
        asked = self._ask(_WRITE, room, *args)
        if here is None or here.noted:
            return await asked
        here.noted = True  # if it fails, the next renewal will do it
        reply, _ = await asyncio.gather(asked, self._note((room,)))
        return reply

    def _tell(
        self,
        room: str,
        member: Member,
        is_news: bool,
        total: int,
        waiters: list[tuple[bool, asyncio.Future[PresenceChange]]],
    ) -> None:
        """Answer who waits; if the others are to be told, exactly one of them does it, or else a callback."""
        is_in = member.connections > 0
        for entered, waiter in reversed(waiters):
            if not waiter.done():
                edge = is_news and entered == is_in
                is_news = is_news and not edge
                waiter.set_result(PresenceChange(edge, total))
        if is_news:
            (self._on_back if is_in else self._on_gone)(room, member, total)

    def _is_there(self, room: str) -> bool:
        """Whether the server should know of this node in ``room``: users of it were written, and are in no doubt."""
        here, work = self._rooms.get(room), self._work.get(room)
        if here is None or work is None:
            return here is not None
        return any(user_id not in work.doubts for user_id in here.users)

    def _again(self, room: str, work: _Work) -> None:
        """Have all users of this node in ``room`` written, in the order they came, and first those who left."""
        here = self._rooms.get(room)
        users = here.users if here is not None else {}
        work.again = list(reversed(users))
        work.queue.update((user_id, None) for user_id in work.doubts if user_id not in users)

    # Asking.

    def _ask(self, script: Script, room: str, *args: str | bytes | int) -> Any:
        tag = f"{{{self._prefix}:{room}}}"
        may_reap = "1" if time.monotonic() >= self._judge_from else "0"
        keys = (f"{tag}:n", f"{tag}:p", f"{tag}:g")
        return self._router.run(script, keys, (self._node, self._millis, may_reap, *args))

    def _heard(self, room: str, dead: Sequence[bytes], total: int) -> None:
        """Note how many users there are, and tell of those whose nodes are dead."""
        here = self._rooms.get(room)
        if here is not None:
            here.total = total
        for user, name in zip(dead[::2], dead[1::2], strict=True):
            self._on_gone(room, Member(json.loads(user), name.decode(errors="replace"), 0), total)

    async def members(self, room: str) -> list[Member]:
        """Who is in ``room`` on all nodes, in the order they came. Raises ``Unavailable``."""
        dead, total, found = await self._ask(_LOOK, room, "1")
        self._heard(room, dead, total)
        members = []
        for user, value in zip(found[::2], found[1::2], strict=True):
            one = orjson.loads(value)
            members.append((int(one["at"]), Member(json.loads(user), one["name"], sum(one["nodes"].values()))))
        members.sort(key=lambda pair: pair[0])
        return [member for _, member in members]

    async def rooms(self) -> dict[str, int]:
        """The rooms with members on any node, and how many users each has. Raises ``Unavailable``."""
        totals: dict[str, int] = {}

        async def count_users(room: str) -> None:
            dead, total, _ = await self._ask(_LOOK, room, "")
            self._heard(room, dead, total)
            if total:
                totals[room] = total

        noted = await self._router.run(_LIST, (self._index,), ())
        await in_batches(count_users, [room.decode() for room in noted])
        return totals

    # Lasting.

    @property
    def _index(self) -> str:
        return f"{self._prefix}:rooms"

    async def _note(self, rooms: Iterable[str]) -> None:
        """Note ``rooms`` where ``rooms()`` looks. It is no part of a room, whose keys may be on another server."""
        with contextlib.suppress(Unavailable):
            await self._router.run(_NOTE, (self._index,), (2 * self._millis, *rooms))

    async def renew(self) -> None:
        """Renew the leases of this node, write what could not be written, and take out the users of nodes that died.

        Call it each third of a lease. Never raises ``Unavailable``.
        """
        await self._note_all()
        await in_batches(self._renew, [*{**self._rooms, **self._work}])

    async def _note_all(self) -> None:
        rooms = iter(list(self._rooms))
        while some := list(islice(rooms, _ROOMS)):
            await self._note(some)

    async def _renew(self, room: str) -> None:
        work = self._work.get(room)
        if work is not None and work.task is None:
            work.queue.update(dict.fromkeys(work.doubts))
            await asyncio.wait((self._begin(room, work),))
        if room not in self._rooms:
            return
        expected = self._is_there(room)
        try:
            standing, dead, total = await self._ask(_RENEW, room)
        except Unavailable:
            self.hold()
            return
        if standing != _NONE:
            self._heard(room, dead, total)
        elif expected:  # it was taken for dead, or the server lost its data
            await self._rewrite(room)
        if standing == _ENDED:
            self.hold()

    async def restore(self) -> None:
        """The server is back and may have lost or kept anything: write all of it again. Never raises ``Unavailable``.

        No node is taken for dead for one lease from now on.
        """
        self.hold()
        await self._note_all()
        await in_batches(self._rewrite, [*{**self._rooms, **self._work}])

    async def _rewrite(self, room: str) -> None:
        work = self._work_on(room)
        self._again(room, work)
        await asyncio.wait((self._begin(room, work),))

    async def close(self) -> None:
        """Take all users of this node out of their rooms, as far as that is done within two seconds."""
        rooms, self._rooms = self._rooms, {}

        async def withdraw(room: str) -> None:
            work = self._work_on(room)
            for user_id, (name, _) in rooms[room].users.items() if room in rooms else ():
                work.doubts.setdefault(user_id, _Doubt(name))
            self._again(room, work)
            await asyncio.wait((self._begin(room, work),))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await in_batches(withdraw, [*{**rooms, **self._work}])
        if tasks := [work.task for work in self._work.values() if work.task is not None]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _fail(work: _Work, users: Iterable[UserId], error: Unavailable) -> None:
    """Tell all who wait for a write of ``users`` that it failed; they stay in doubt."""
    work.queue.clear()
    for user_id in users:
        if (doubt := work.doubts.get(user_id)) is not None:
            waiters, doubt.waiters = doubt.waiters, []
            _tell_failed(waiters, error)


def _tell_failed(waiters: list[tuple[bool, asyncio.Future[PresenceChange]]], error: BaseException) -> None:
    for _, waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error if isinstance(error, Unavailable) else Unavailable("This node is closing."))
