"""Reports what happens in followed rooms to the listener of one node, also if the node that caused it has died.

Changes of memberships and published events are recorded in the room, in the script that makes them, with a claim for
the calling node. The node reports them to its listener, and removes them when the listener has processed them. Its
claims are leases: if the node dies, they end, and another node claims what is left. To find rooms in which no living
node is, each node registers its followed rooms in one zset, and all nodes look there for rooms whose registration has
ended. Each one of these rooms is swept by one node.

Nothing here runs if no room is followed. See ``docs/adr/0012-claims-for-hooks.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

from ...errors import Unavailable
from ..base import Listener
from .keys import Keys
from .router import Router
from .scripts import Script, in_batches

log = logging.getLogger("roomcast.redis")

_REGISTER: Final = Script("server_time", "followed_register")
_TAKE: Final = Script("server_time", "followed_take")
_DROP: Final = Script("followed_drop")
_CHANGE_DONE: Final = Script("server_time", "change_done")
_EXTEND: Final = Script("server_time", "claims_extend")
_CLAIM_PUBLISHED: Final = Script("server_time", "published_claim")
_PUBLISHED_DONE: Final = Script("published_done")

#: How many rooms or entries one script handles.
_BATCH: Final = 500

#: Sweeps the presence of a room; returns True if it must be swept again.
SweepPresence = Callable[[str], Awaitable[bool]]


class FollowedRooms:
    """The followed rooms of one node, and the claims that it has. ``lease`` is the length of a claim, in seconds.

    A call about an entry that was processed waits up to ``wait`` seconds for a server that cannot be reached.
    """

    def __init__(
        self, router: Router, keys: Keys, listener: Listener, lease: float, wait: float, types: frozenset[str]
    ) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._listener: Final = listener
        self._lease: Final = lease
        self.lease_ms: Final = round(lease * 1000)
        self._wait: Final = wait
        self._types: Final = types
        #: The rooms of published events that this node has registered, and until when that is certain.
        self._registered: Final[dict[str, float]] = {}
        #: The claims of this node: by room, the users with a change and the ids of events.
        self._changes: Final[dict[str, set[str]]] = {}
        self._events: Final[dict[str, set[str]]] = {}
        #: The events of this loop iteration that were processed, by room.
        self._processed: dict[str, list[str]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._loop: Final = asyncio.get_running_loop()
        self._sweeping: asyncio.Task[None] | None = None
        self._is_used = bool(types)
        self._is_closing = False

    def has_changes(self, room: str) -> bool:
        """Return True if the changes of memberships in ``room`` are reported."""
        return bool(self._types) and room.partition(":")[0] in self._types

    # Registration.

    async def register(self, rooms: Sequence[str]) -> None:
        """Register followed rooms for one lease. Raises ``Unavailable``."""
        await self._router.run(_REGISTER, (self._keys.followed,), (self.lease_ms, *rooms))

    def is_registered(self, room: str) -> bool:
        """Return True if an event may be published in ``room``: if the node dies, others will find the room."""
        return self._registered.get(room, 0.0) > time.monotonic()

    async def register_for_events(self, rooms: Sequence[str]) -> None:
        """Register rooms before followed events are published there. Raises ``Unavailable``.

        A registration counts for a third of a lease, so that it outlives what begins within this time.
        """
        self._is_used = True
        until = time.monotonic() + self._lease / 3
        missing = [room for room in rooms if not self.is_registered(room)]
        if missing:
            await self._router.run(_REGISTER, (self._keys.followed,), (self.lease_ms, *missing), wait=self._wait)
            self._registered.update(dict.fromkeys(missing, until))

    # Changes of memberships.

    def report_changes(self, room: str, claimed: Sequence[bytes]) -> None:
        """Report the changes that a script of ``presence.lua`` has claimed: the user, the sign, the id and the name."""
        for user, sign, id, name in zip(claimed[::4], claimed[1::4], claimed[2::4], claimed[3::4], strict=True):
            task = self._loop.create_task(self._report_changes(room, user.decode(), sign, id, name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _report_changes(self, room: str, user: str, sign: bytes, id: bytes, name: bytes) -> None:
        """Report a change of a user, and those that follow it. If the listener stops, another node goes on."""
        self._changes.setdefault(room, set()).add(user)
        change: Sequence[bytes] = (sign, id, name)
        try:
            while change and not self._is_closing:
                sign, id, name = change
                await self._listener.on_membership(room, json.loads(user), name.decode(), sign == b"+")
                keys, args = self._keys.changes(room), (self.lease_ms, user, id)
                change = await self._router.run(_CHANGE_DONE, keys, args, wait=self._wait, size=1)
        except Unavailable as error:
            log.warning("A hook for a member of %s may be called again: %s", room, error.detail)
        except asyncio.CancelledError:
            change = (b"",)
        finally:
            _discard(self._changes, room, user)
        if change and not self._is_closing:
            await self._give_back(self._keys.changes(room)[1], room, [user])

    # Published events.

    def report_event(self, room: str, id: str, payload: bytes) -> None:
        """Report a published event, on which this node has a claim."""
        events = self._events.setdefault(room, set())
        if id in events:
            return
        events.add(id)
        future = self._listener.on_published(room, id, payload)
        future.add_done_callback(lambda future: None if future.cancelled() else self._event_processed(room, id))

    def _event_processed(self, room: str, id: str) -> None:
        if not self._processed:
            self._loop.call_soon(self._remove_processed)
        self._processed.setdefault(room, []).append(id)

    def _remove_processed(self) -> None:
        processed, self._processed = self._processed, {}
        for room, ids in processed.items():
            task = self._loop.create_task(self._remove(room, ids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _remove(self, room: str, ids: list[str]) -> None:
        try:
            for some in _batches(ids):
                await self._router.run(_PUBLISHED_DONE, self._keys.published(room), some, wait=self._wait, size=1)
        except Unavailable as error:
            log.warning("Hooks after events in %s may be called again: %s", room, error.detail)
        finally:
            for id in ids:
                _discard(self._events, room, id)

    async def _claim_events(self, room: str) -> bool:
        """Report events of nodes that have died. Return True if there are unprocessed events in ``room``."""
        has_others, found = await self._router.run(_CLAIM_PUBLISHED, self._keys.published(room), (self.lease_ms,))
        for id, payload in found:
            self.report_event(room, id.decode(), payload)
        return bool(has_others)

    # Periodic work.

    def sweep(self, sweep_presence: SweepPresence) -> None:
        """Sweep the rooms whose nodes have died. Call it about once a second."""
        if self._is_used and self._sweeping is None and not self._is_closing:
            self._sweeping = self._loop.create_task(self._sweep(sweep_presence), name="roomcast followed rooms")
            self._sweeping.add_done_callback(self._swept)

    def _swept(self, task: asyncio.Task[None]) -> None:
        self._sweeping = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Rooms of dead nodes could not be swept; it is tried again", exc_info=error)

    async def _sweep(self, sweep_presence: SweepPresence) -> None:
        unused = []

        async def sweep_room(name: bytes) -> None:
            room = name.decode()
            with contextlib.suppress(Unavailable):  # in a Cluster, other rooms are on other servers
                is_used = await self._claim_events(room)
                if self.has_changes(room):
                    is_used |= await sweep_presence(room)
                if not is_used:
                    unused.append(room)

        with contextlib.suppress(Unavailable):
            stop, rooms = await self._router.run(_TAKE, (self._keys.followed,), (self.lease_ms,))
            await in_batches(sweep_room, rooms)
            if unused:
                await self._router.run(_DROP, (self._keys.followed,), (stop, *unused))

    async def renew(self) -> None:
        """Extend this node's claims, and take over those of dead nodes in rooms that it has registered.

        Call it every third of a lease. Never raises ``Unavailable``.
        """
        if not self._is_used:
            return
        claims = [(self._keys.changes(room)[1], list(users)) for room, users in self._changes.items()]
        claims += [(self._keys.published(room)[1], list(ids)) for room, ids in self._events.items()]
        await in_batches(self._renew_claims, claims)
        await in_batches(self._take_over, list(self._registered))
        earliest = time.monotonic() - self._lease
        for room in [room for room, until in self._registered.items() if until < earliest]:
            del self._registered[room]

    async def _renew_claims(self, claims: tuple[str, list[str]]) -> None:
        """Extend the claims with a key."""
        key, entries = claims
        with contextlib.suppress(Unavailable):  # in a Cluster, other claims are on other servers
            await self._extend(key, self.lease_ms, entries)

    async def _take_over(self, room: str) -> None:
        """Take over the events of dead nodes in a room."""
        with contextlib.suppress(Unavailable):
            await self._claim_events(room)

    async def _extend(self, key: str, milliseconds: int, entries: list[str]) -> None:
        for some in _batches(entries):
            await self._router.run(_EXTEND, (key,), (milliseconds, *some))

    async def _give_back(self, key: str, room: str, entries: list[str]) -> None:
        """Let another node process ``entries`` at once."""
        with contextlib.suppress(Unavailable):
            await self._extend(key, 0, entries)
            await self._router.run(_REGISTER, (self._keys.followed,), (0, room))

    async def close(self, rooms: Iterable[str]) -> None:
        """Give all claims back, so that other nodes go on. ``rooms`` are the followed rooms of this node's users."""
        if not self._is_used:
            return
        self._is_closing = True
        changes = {room: list(users) for room, users in self._changes.items()}
        tasks = {*self._tasks, *([] if self._sweeping is None else [self._sweeping])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        for room, users in changes.items():
            await self._give_back(self._keys.changes(room)[1], room, users)
        for room, ids in self._events.items():
            await self._give_back(self._keys.published(room)[1], room, list(ids))
        with contextlib.suppress(Unavailable):
            for some in _batches([room for room in rooms if self.has_changes(room)]):
                await self._router.run(_REGISTER, (self._keys.followed,), (0, *some))


def _discard(claims: dict[str, set[str]], room: str, entry: str) -> None:
    entries = claims.get(room)
    if entries is not None:
        entries.discard(entry)
        if not entries:
            del claims[room]


def _batches(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
