"""Deliver what is in the queue, on one node at a time.

The node with the lease of the queue is the consumer. It reads the entries into lanes, sends batches, and compares what
the receiver was told with the truth. Other nodes wait for the lease. If the consumer dies, another node has it within
seconds.

Before a request about users or rooms, the consumer stores that their state is unknown, and afterwards what it told. So
if it dies in between, the next consumer tells the receiver again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from roomcast import Queue, Service, Unavailable

from .events import is_followed, state_event
from .lanes import Batch, Item, Key, Lanes
from .outbox import Outbox
from .reader import LeaseLostError, Reader
from .sender import Outcome, Sender
from .states import PRESENT, UNKNOWN, ToldStates
from .timing import Timing, wait

log = logging.getLogger("roomcast.webhooks")


#: The limits of one request, and the number of requests at once.
MAX_EVENTS: Final = 100
MAX_BYTES: Final = 1024 * 1024
_MAX_REQUESTS: Final = 4
#: The pause after a comparison, as a multiple of its duration. 20,000 users take 0.8 s of Redis, and 0.5 s of the node.
_COMPARE_PAUSE: Final = 10
#: How many states are written at once.
_STATES: Final = 500


class State:
    """The content of an item about a room. ``event`` is the last one that was made of it, for ``is_present``."""

    __slots__ = ("event", "is_present")

    def __init__(self) -> None:
        self.is_present: bool | None = None
        self.event: dict[str, Any] = {}


class Delivery:
    """Delivers the events of ``types`` with ``sender``, and reads them from ``queue``.

    ``outbox`` is the one of this node. ``requests`` counts requests by their result, ``delivered`` accepted events.
    """

    def __init__(
        self,
        service: Service,
        queue: Queue,
        outbox: Outbox,
        sender: Sender,
        types: frozenset[str],
        timing: Timing = Timing(),  # noqa: B008  # it is immutable
    ) -> None:
        self._service: Final = service
        self._queue: Final = queue
        self._outbox: Final = outbox
        self._sender: Final = sender
        self._types: Final = types
        self._timing: Final = timing
        self._now: Final[Callable[[], float]] = asyncio.get_running_loop().time
        self._told: Final = ToldStates()
        self.requests: Final[Counter[str]] = Counter(accepted=0, refused=0, failed=0)
        self.delivered = 0
        self.is_consumer = False
        self._next_copy = 0.0
        self._reset()

    def _reset(self) -> None:
        self._lanes = Lanes(MAX_EVENTS, MAX_BYTES)
        self._reader = Reader(self._queue, self._outbox, self._lanes, self._timing, self._check, self._on_read)
        #: The rooms of requests that have begun and whose outcome is not stored yet.
        self._open_rooms: set[str] = set()
        self._settled_at = self._now() + self._timing.settle
        self._changed = asyncio.Event()
        self._reconcile_now = asyncio.Event()

    # The lease.

    async def run(self) -> None:
        """Deliver whenever this node has the lease, until cancelled."""
        try:
            while True:
                try:
                    await self._run_once()
                except Unavailable as error:
                    log.debug("webhooks wait for the broker: %s", error)
                except Exception:  # the task must go on
                    log.exception("Webhooks could not be delivered; it is tried again")
                await asyncio.sleep(self._timing.poll)
        finally:
            with contextlib.suppress(Unavailable):
                await self._queue.release()

    async def _run_once(self) -> None:
        if await self._queue.acquire(self._timing.lease):
            await self._consume()
        elif self._now() >= self._next_copy:
            self._tell_again(self._told.load(await self._queue.read_states(), is_consumer=False))
            self._next_copy = self._now() + self._timing.compare

    def _tell_again(self, rooms: list[str] | set[str]) -> None:
        names = list(rooms)
        for i in range(0, len(names), _STATES):
            self._outbox.add({"rooms": names[i : i + _STATES], "again": True})

    async def _consume(self) -> None:
        """Deliver until the lease is lost."""
        self._reset()
        self._queue.rewind()  # after a failure the lease is the same, and what was read must be read again
        self.is_consumer = True
        log.info("This node delivers webhooks now")
        try:
            self._told.load(await self._queue.read_states(), is_consumer=True)
            async with asyncio.TaskGroup() as group:
                for work in (self._hold(), self._reader.run(), self._reconcile(), self._dispatch(group)):
                    group.create_task(work)
        except* LeaseLostError:
            log.warning("Another node delivers webhooks now, or Redis cannot be reached")
        finally:
            self.is_consumer = False
            # A request that was sent before the lease was lost may arrive after those of the next consumer.
            self._tell_again(self._open_rooms)
            self._open_rooms = set()
            self._next_copy = 0.0  # the next consumer may have read states that lack the newest

    async def _hold(self) -> None:
        end = self._now() + self._timing.lease
        while True:
            await asyncio.sleep(self._timing.lease / 4)
            begin = self._now()
            try:
                async with asyncio.timeout_at(end):
                    change = await self._queue.acquire(self._timing.lease)
            except (Unavailable, TimeoutError):
                self._distrust()
                if self._now() >= end:
                    raise LeaseLostError from None
                continue
            if change is None:
                raise LeaseLostError
            if change == "taken":
                self._distrust()
            end = begin + self._timing.lease

    def _distrust(self) -> None:
        """Redis may have lost data: believe no absence for a while, and compare everything."""
        self._settled_at = self._now() + self._timing.settle
        self._reconcile_now.set()

    def _on_read(self, is_read: bool) -> None:
        if not is_read:
            self._distrust()
        self._changed.set()

    # Users and rooms.

    def _check(self, room: str, again: bool = False) -> None:
        if not is_followed(room, self._types):
            return
        if again:
            self._told.set(room, UNKNOWN)
        key = ("state", room)
        if not self._lanes.has(key):
            self._lanes.add(key, Item((0, 0), State()))

    async def _reconcile(self) -> None:
        while True:
            self._reconcile_now.clear()
            begin = self._now()
            try:
                absent = await self._compare()
            except Unavailable:
                await asyncio.sleep(self._timing.poll)
                self._distrust()
                continue
            pause = _COMPARE_PAUSE * (self._now() - begin) - self._timing.compare
            # The presence of a room may be lost for a moment, so only rooms without members after a while count.
            if not await wait(self._reconcile_now, self._timing.compare):
                for room in absent:
                    self._check(room)
                self._changed.set()
                await wait(self._reconcile_now, max(pause, 0))
            if self._reconcile_now.is_set():
                await asyncio.sleep(self._timing.poll)

    async def _compare(self) -> list[str]:
        """Compare all users and rooms with what the receiver was told.

        Checks those that have members. Returns those that have none.
        """
        if not self._types & {"user.online", "user.offline", "room.occupied", "room.vacated"}:
            return []
        repairs = list(self._told.repairs(await self._queue.read_states()).items())
        for i in range(0, len(repairs), _STATES):
            await self._write(dict(repairs[i : i + _STATES]))
        occupied = {room for room in await self._service.occupied_rooms() if is_followed(room, self._types)}
        present, absent = self._told.differences(occupied)
        for room in present:
            self._check(room)
        self._changed.set()
        return absent

    async def _write(self, states: dict[str, str | None]) -> None:
        if not await self._queue.write_states(states):
            raise LeaseLostError

    # Sending.

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._changed.clear()
            while self._lanes.sent_batches < _MAX_REQUESTS and (batch := self._lanes.next_batch(self._now())):
                group.create_task(self._deliver(batch))
            await wait(self._changed, None if self._lanes.is_empty else 0.1)

    async def _deliver(self, batch: Batch) -> None:
        try:
            events = await self._prepare(batch)
        except Unavailable:
            self._distrust()
            for key in list(batch):
                self._lanes.postpone(batch, key, self._now() + self._timing.poll)
            events = []
        if not events:
            self._lanes.end(batch)
        else:
            outcome = await self._sender.send(events)
            await self._finish(batch, outcome, len(events))
        self._changed.set()

    async def _prepare(self, batch: Batch) -> list[dict[str, Any]]:
        """Return the events to send for ``batch``, without the rooms about which the receiver knows already."""
        keys = [key for key in batch if key[0] == "state"]
        presence = await asyncio.gather(*[self._service.is_occupied(room) for _, room in keys], return_exceptions=True)
        begun: dict[str, str | None] = {}
        for key, is_present in zip(keys, presence, strict=True):
            if isinstance(is_present, Unavailable):  # in a Cluster, the servers of other rooms may work
                self._distrust()
                self._lanes.postpone(batch, key, self._now() + self._timing.poll)
            elif isinstance(is_present, BaseException):
                raise is_present
            else:
                self._prepare_state(batch, key, is_present, begun)
        if begun:
            await self._write(begun)
            for room, state in begun.items():
                self._told.set(room, state)
            self._open_rooms |= {room for room, state in begun.items() if state == UNKNOWN}
        last_of_states = (items if kind == "event" else items[-1:] for (kind, _), items in batch.items())
        return [item.content.event for items in last_of_states for item in items]

    def _prepare_state(self, batch: Batch, key: Key, is_present: bool, begun: dict[str, str | None]) -> None:
        """Prepare the event about the room of ``key``, or take it out of ``batch``. Add its new state to ``begun``."""
        _, room = key
        items = batch[key]
        if not is_present and self._now() < self._settled_at:
            self._lanes.postpone(batch, key, self._settled_at)
            return
        new = PRESENT if is_present else None
        if self._told.rooms.get(room) == new:
            self._lanes.drop(batch, key, items)
            return
        content: State = items[-1].content
        if content.is_present is not is_present:
            content.is_present, content.event = is_present, state_event(room, is_present=is_present)
        if content.event["type"] in self._types:
            begun[room] = UNKNOWN
        else:
            self._lanes.drop(batch, key, items)
            begun[room] = new

    async def _finish(self, batch: Batch, outcome: Outcome, count: int) -> None:
        now, lanes = self._now(), self._lanes
        if outcome.is_accepted:
            self.requests["accepted"] += 1
            self.delivered += count
            await self._accepted(batch)
            lanes.succeeded(batch, self._now())
            return
        self.requests["refused" if outcome.status is not None else "failed"] += 1
        level = logging.WARNING if lanes.failures in (0, 3) or lanes.failures % 100 == 99 else logging.DEBUG
        log.log(level, "The receiver of webhooks did not accept %d events: %s", count, outcome.reason)
        if outcome.is_gone:
            log.error("The receiver of webhooks answered 410: nothing is sent for %g s", self._timing.gone)
            lanes.pause(now + self._timing.gone)
        is_last = count == 1  # otherwise another event of the batch may be the reason
        for key, items in list(batch.items()):
            if key[0] == "event":
                await self._bury(batch, key, items, outcome, is_last=is_last)
        self._open_rooms -= {room for kind, room in batch if kind == "state"}  # they are stored as unknown
        if batch:
            lanes.failed(batch, now, outcome.retry_after)
        else:
            lanes.end(batch)

    async def _bury(self, batch: Batch, key: Key, items: list[Item], outcome: Outcome, *, is_last: bool) -> None:
        """Make dead letters of the items of a lane that are not repeated any more."""
        now = self._now()
        dead = [
            item for item in items if outcome.is_gone or (is_last and now - item.content.appended >= self._timing.retry)
        ]
        if not dead:
            return
        entries = [item.content.entry for item in dead]
        try:
            await self._queue.bury(entries, outcome.reason)
        except Unavailable:
            return  # they are tried once more
        log.error("%d events in %s are dead letters: %s", len(dead), key[1], outcome.reason)
        self._lanes.drop(batch, key, dead)
        self._reader.forget(entries)

    async def _accepted(self, batch: Batch) -> None:
        """Store that the receiver has the events of ``batch``. Repeated until Redis can be reached."""
        states: dict[str, str | None] = {}
        entries = []
        for (kind, room), items in batch.items():
            if kind == "state":
                states[room] = PRESENT if items[-1].content.is_present else None
                self._told.set(room, states[room])
            else:
                entries += [item.content.entry for item in items]
        while True:
            try:
                if states:
                    await self._write(states)
                    self._open_rooms -= states.keys()
                    states = {}
                if entries:
                    await self._queue.remove(entries)
                break
            except Unavailable:
                self._distrust()
                await asyncio.sleep(self._timing.poll)
        self._reader.forget(entries)
