"""Publish events in batches.

The events of one loop iteration are sent with one call. While a batch of a room is in flight, further events of that
room wait for the next batch. So only one batch of a room is in flight, and the order is kept even if it is sent again.
The busier a room or Redis is, the larger the batches and the cheaper each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from ..base import Publication, UserId
from ..room_types import PerRoomType
from .connection import Part
from .followed import FollowedRooms
from .keys import Keys
from .options import RedisOptions, StreamLimits
from .positions import RecentPositions
from .router import Router
from .scripts import Script

PUBLISH: Final = Script("room", "publish", stamped=True)

#: The maximum number of events in one batch. Redis takes about 1 ms for it.
MAX_BATCH: Final = 128

#: Payload, idempotency key, the future for the id, True for a message, its author if that is a user, and True if the
#: event is followed.
Item = tuple[bytes, str | None, "asyncio.Future[str]", bool, UserId | None, bool]
#: A room and its events in a batch.
RoomBatch = tuple[str, Sequence[tuple[bytes, str | None, Any, bool, UserId | None, bool]]]
#: Receives the author, the room and the id of each message that a user has published, and the number of messages up to
#: it.
OnMessage = Callable[[UserId, str, str, int], None]


class _ReceiptSlots:
    """Numbers the receipts of batches in flight.

    ``acquire`` returns a slot that no other batch in flight uses, and a number that no other batch ever had.
    """

    def __init__(self) -> None:
        self._free: Final[list[int]] = []
        self._slots = 0
        self._last_number = 0

    def acquire(self) -> tuple[int, int]:
        self._last_number += 1
        if self._free:
            return self._free.pop(), self._last_number
        self._slots += 1
        return self._slots, self._last_number

    def release(self, slot: int) -> None:
        self._free.append(slot)


def _limit_args(limits: PerRoomType[StreamLimits]) -> Iterator[Part]:
    """Yield the number of different limits, and each of them as publish.lua expects it; the default comes first."""
    yield 1 + len(limits.by_type)
    for one in limits:
        yield from (one.stream_size, one.ttl_ms + one.extension_ms, one.extension_ms)


class Publisher:
    """Publishes the events of one node. ``node`` is its name in Redis. ``positions`` receives the acknowledged ids."""

    def __init__(
        self,
        router: Router,
        keys: Keys,
        options: RedisOptions,
        node: str,
        positions: RecentPositions,
        on_message: OnMessage,
        followed: FollowedRooms,
    ) -> None:
        self._followed: Final = followed
        #: The rooms with followed events that wait until the room is registered.
        self._unregistered: Final[set[str]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._router: Final = router
        self._keys: Final = keys
        self._node: Final = node
        self._positions: Final = positions
        self._on_message: Final = on_message
        self._wait: Final = options.wait
        #: In a Cluster, rooms may be on different servers, so each call is for one room.
        self._is_sharded: Final = router.topology.is_cluster
        limits = options.limits
        #: The arguments that are the same for all batches. A receipt outlives the time in which a batch is sent again.
        self._fixed_args: Final[tuple[Part, ...]] = (
            max(int(options.wait * 4000), 10_000),
            options.history_bytes,
            options.room_ttl_ms + options.extension_ms,
            options.key_ttl_ms,
            "SPUBLISH" if self._is_sharded else "PUBLISH",
            options.message_room_ttl_ms + options.extension_ms,
            *_limit_args(limits),
        )
        #: The number of a room's limits among those in the arguments.
        self._limits: Final = PerRoomType(1, {type: number for number, type in enumerate(limits.by_type, 2)})
        #: By room: the events that wait for the next batch. Contains all rooms that have a batch in flight or ready.
        self._queued: Final[dict[str, list[Item]]] = {}
        #: The rooms whose next batch is sent at the end of this loop iteration.
        self._ready: list[str] = []
        self._slots: Final = _ReceiptSlots()
        self._loop: Final = asyncio.get_running_loop()

    def publish(
        self,
        room: str,
        payload: bytes,
        key: str | None,
        is_message: bool = False,
        author: UserId | None = None,
        is_followed: bool = False,
    ) -> asyncio.Future[str]:
        """Publish at the end of this loop iteration, or with the room's next batch; the result is the id.

        Raises ``Unavailable`` if the buffer is full, and ``UnicodeEncodeError`` for a ``key`` that cannot be encoded:
        later it would fail the other events of its batch.
        """
        if key is not None:
            key.encode()
        self._router.reserve(len(payload))
        future: asyncio.Future[str] = self._loop.create_future()
        queued = self._queued.get(room)
        if is_followed and not self._followed.is_registered(room):
            self._unregistered.add(room)
        if queued is not None:
            queued.append((payload, key, future, is_message, author, is_followed))
        else:
            self._queued[room] = [(payload, key, future, is_message, author, is_followed)]
            self._mark_ready(room)
        return future

    async def _register(self, room: str) -> None:
        """Register a room for followed events, and send what waits for that."""
        error: BaseException | None = None
        try:
            await self._followed.register_for_events((room,))
        except Exception as raised:
            error = raised
        self._unregistered.discard(room)
        if error is None:
            self._mark_ready(room)
            return
        items = self._queued.pop(room)
        self._router.free(sum(len(item[0]) for item in items))
        for item in items:
            if not item[2].done():
                item[2].set_exception(error)

    def _mark_ready(self, room: str) -> None:
        if not self._ready:
            self._loop.call_soon(self._send_ready)
        self._ready.append(room)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        batch: list[RoomBatch] = []
        events = 0
        for room in ready:
            if self._unregistered and room in self._unregistered:
                task = self._loop.create_task(self._register(room))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            queued = self._queued[room]
            items = queued[:MAX_BATCH]
            self._queued[room] = queued[MAX_BATCH:]
            # From now on the call reserves the bytes. Events whose publisher was cancelled are dropped.
            self._router.free(sum(len(item[0]) for item in items))
            items = [item for item in items if not item[2].done()]
            if not items:
                self._batch_done(room)
                continue
            batch.append((room, items))
            events += len(items)
            if self._is_sharded or events >= MAX_BATCH:
                self._send(batch)
                batch, events = [], 0
        if batch:
            self._send(batch)

    def _send(self, batch: list[RoomBatch]) -> None:
        try:
            slot, reply = self._run(batch)
        except Exception as error:  # the server cannot be reached, or the buffer is full
            self._fail(batch, error)
        else:
            reply.add_done_callback(partial(self._on_reply, batch, slot))

    def _run(self, batch: list[RoomBatch]) -> tuple[int, asyncio.Future[list[Any]]]:
        """Run publish.lua; return the slot of its receipt, which must be released after the reply, and the reply."""
        names = self._keys
        slot, number = self._slots.acquire()
        keys = [names.receipt(batch[0][0], self._node, slot)]
        args: list[Part] = [number, *self._fixed_args, len(batch)]
        size = 0
        for room, items in batch:
            keys += (names.meta(room), names.stream(room), names.channel(room))
            args += (self._limits.of(room), len(items))
            for payload, key, _, is_message, _, is_followed in items:
                size += len(payload)
                if is_followed:
                    if key is not None:
                        keys.append(names.key(room, key))
                    keys += names.published(room)
                    kind = (b"" if key is None else b"k") + (b"mh" if is_message else b"h")
                    args += (kind, payload, self._followed.lease_ms)
                elif key is None:
                    args += (b"m" if is_message else b"", payload)
                else:
                    keys.append(names.key(room, key))
                    args += (b"km" if is_message else b"k", payload)
        try:
            return slot, self._router.run(PUBLISH, keys, args, wait=self._wait, size=size)
        except BaseException:
            self._slots.release(slot)
            raise

    def _on_reply(self, batch: list[RoomBatch], slot: int, reply: asyncio.Future[list[Any]]) -> None:
        self._slots.release(slot)
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        if error is not None:
            self._fail(batch, error)
            return
        ids = reply.result()
        self._record(batch, ids)
        assigned = iter(ids)
        for room, items in batch:
            for _, _, future, *_ in items:
                id = next(assigned)
                if not future.done():
                    future.set_result(id.decode())
            self._batch_done(room)

    def _record(self, batch: list[RoomBatch], ids: list[Any]) -> None:
        """Record the acknowledged ids, to find out if a server loses them, and report the messages."""
        start = 0
        for room, items in batch:
            end = start + len(items)
            self._positions.record_batch(room, ids, start, end)
            start = end
        if len(ids) > start:  # there are messages or followed events
            self._report_messages(batch, ids, start)

    def _report_messages(self, batch: list[RoomBatch], reply: list[Any], counts: int) -> None:
        """Report the messages of users. ``counts`` is the index of the first count in the reply of publish.lua."""
        number = 0
        for room, items in batch:
            for _, _, _, is_message, author, _ in items:
                if is_message:
                    if author is not None and reply[counts] > 0:  # not a repeat
                        self._on_message(author, room, reply[number].decode(), reply[counts])
                    counts += 1
                number += 1
        if len(reply) > counts:
            self._report_followed(batch, reply, counts)

    def _report_followed(self, batch: list[RoomBatch], reply: list[Any], flags: int) -> None:
        """Report the followed events. ``flags`` is the index of the first of their flags in the reply."""
        number = 0
        for room, items in batch:
            for payload, *_, is_followed in items:
                if is_followed:
                    if reply[flags] > 0:  # not a repeat
                        self._followed.report_event(room, reply[number].decode(), payload)
                    flags += 1
                number += 1

    def _fail(self, batch: list[RoomBatch], error: BaseException) -> None:
        for room, items in batch:
            for _, _, future, *_ in items:
                if not future.done():
                    future.set_exception(error)
            self._batch_done(room)

    def _batch_done(self, room: str) -> None:
        if self._queued[room]:
            self._mark_ready(room)
        else:
            del self._queued[room]

    async def finish(self, seconds: float) -> None:
        """Wait until everything is published, including calls of this loop iteration, for at most ``seconds``."""
        deadline = self._loop.time() + seconds
        await asyncio.sleep(0)
        # Polling is good enough: this is called once, when the node stops. An event would cost time for each batch.
        while self._queued and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all atomically; in a Cluster, atomically for each room."""
        rooms: dict[str, list[int]] = {}
        for number, publication in enumerate(publications):
            rooms.setdefault(publication.room, []).append(number)
        batch: list[RoomBatch] = [
            (room, [_without_future(publications[number]) for number in numbers]) for room, numbers in rooms.items()
        ]
        if followed := [room for room, items in batch if any(item[5] for item in items)]:
            await self._followed.register_for_events(followed)
        batches = [[one] for one in batch] if self._is_sharded else [batch] if batch else []
        replies = await asyncio.gather(*map(self._run_and_wait, batches))
        ids = [""] * len(publications)
        assigned = iter([id for reply in replies for id in reply if not isinstance(id, int)])
        for numbers in rooms.values():
            for number in numbers:
                ids[number] = next(assigned).decode()
        return ids

    async def _run_and_wait(self, batch: list[RoomBatch]) -> list[Any]:
        slot, reply = self._run(batch)
        try:
            ids = await reply
        finally:
            self._slots.release(slot)
        self._record(batch, ids)
        return ids


def _without_future(one: Publication) -> tuple[bytes, str | None, None, bool, UserId | None, bool]:
    """Return an event as part of a ``RoomBatch``."""
    return one.payload, one.key, None, one.is_message, one.author, one.is_followed
