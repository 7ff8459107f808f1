"""Publish events in batches.

The events of one loop iteration are sent with one call. While a batch of a room is in flight, further events of that
room wait for the next batch. So only one batch of a room is in flight, and the order is kept even if it is sent again.
The busier a room or Redis is, the larger the batches and the cheaper each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ..base import KEY_TTL, Publication
from .connection import Part
from .keys import Keys
from .options import RedisOptions
from .positions import RecentPositions
from .router import Router
from .scripts import Script

PUBLISH: Final = Script("room", "publish", stamped=True)

#: The maximum number of events in one batch. Redis takes about 1 ms for it.
MAX_BATCH: Final = 128

#: Payload, idempotency key, and the future for the id.
Item = tuple[bytes, str | None, "asyncio.Future[str]"]
#: A room and its events in a batch.
RoomBatch = tuple[str, Sequence[tuple[bytes, str | None, Any]]]


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


class Publisher:
    """Publishes the events of one node. ``node`` is its name in Redis. ``positions`` receives the acknowledged ids."""

    def __init__(
        self, router: Router, keys: Keys, options: RedisOptions, node: str, positions: RecentPositions
    ) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._node: Final = node
        self._positions: Final = positions
        self._wait: Final = options.wait
        #: In a Cluster, rooms may be on different servers, so each call is for one room.
        self._is_sharded: Final = router.topology.is_cluster
        #: The arguments that are the same for all batches. A receipt outlives the time in which a batch is sent again.
        self._fixed_args: Final[tuple[Part, ...]] = (
            max(int(options.wait * 4000), 10_000),
            options.stream_size,
            options.history_bytes,
            options.history_ttl_ms + options.extension_ms,
            options.room_ttl_ms + options.extension_ms,
            options.extension_ms,
            int(KEY_TTL * 1000),
            "SPUBLISH" if self._is_sharded else "PUBLISH",
        )
        #: By room: the events that wait for the next batch. Contains all rooms that have a batch in flight or ready.
        self._queued: Final[dict[str, list[Item]]] = {}
        #: The rooms whose next batch is sent at the end of this loop iteration.
        self._ready: list[str] = []
        self._slots: Final = _ReceiptSlots()
        self._loop: Final = asyncio.get_running_loop()

    def publish(self, room: str, payload: bytes, key: str | None) -> asyncio.Future[str]:
        """Publish at the end of this loop iteration, or with the room's next batch; the result is the id.

        Raises ``Unavailable`` if the buffer is full, and ``UnicodeEncodeError`` for a ``key`` that cannot be encoded:
        later it would fail the other events of its batch.
        """
        if key is not None:
            key.encode()
        self._router.reserve(len(payload))
        future: asyncio.Future[str] = self._loop.create_future()
        queued = self._queued.get(room)
        if queued is not None:
            queued.append((payload, key, future))
        else:
            self._queued[room] = [(payload, key, future)]
            self._mark_ready(room)
        return future

    def _mark_ready(self, room: str) -> None:
        if not self._ready:
            self._loop.call_soon(self._send_ready)
        self._ready.append(room)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        batch: list[RoomBatch] = []
        events = 0
        for room in ready:
            queued = self._queued[room]
            items = queued[:MAX_BATCH]
            self._queued[room] = queued[MAX_BATCH:]
            # From now on the call reserves the bytes. Events whose publisher was cancelled are dropped.
            self._router.free(sum(len(payload) for payload, _, _ in items))
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

    def _run(self, batch: list[RoomBatch]) -> tuple[int, asyncio.Future[list[bytes]]]:
        """Run publish.lua; return the slot of its receipt, which must be released after the reply, and the reply."""
        names = self._keys
        slot, number = self._slots.acquire()
        keys = [names.receipt(batch[0][0], self._node, slot)]
        args: list[Part] = [number, *self._fixed_args, len(batch)]
        size = 0
        for room, items in batch:
            keys += (names.meta(room), names.stream(room), names.channel(room))
            args.append(len(items))
            for payload, key, _ in items:
                size += len(payload)
                if key is None:
                    args += (b"", payload)
                else:
                    keys.append(names.key(room, key))
                    args += (b"1", payload)
        try:
            return slot, self._router.run(PUBLISH, keys, args, wait=self._wait, size=size)
        except BaseException:
            self._slots.release(slot)
            raise

    def _on_reply(self, batch: list[RoomBatch], slot: int, reply: asyncio.Future[list[bytes]]) -> None:
        self._slots.release(slot)
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        if error is not None:
            self._fail(batch, error)
            return
        ids = reply.result()
        self._record(batch, ids)
        assigned = iter(ids)
        for room, items in batch:
            for _, _, future in items:
                id = next(assigned)
                if not future.done():
                    future.set_result(id.decode())
            self._batch_done(room)

    def _record(self, batch: list[RoomBatch], ids: list[bytes]) -> None:
        """Record the acknowledged ids, to find out if a server loses them."""
        start = 0
        for room, items in batch:
            end = start + len(items)
            self._positions.record_batch(room, ids, start, end)
            start = end

    def _fail(self, batch: list[RoomBatch], error: BaseException) -> None:
        for room, items in batch:
            for _, _, future in items:
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
            (room, [(publications[number].payload, publications[number].key, None) for number in numbers])
            for room, numbers in rooms.items()
        ]
        batches = [[one] for one in batch] if self._is_sharded else [batch] if batch else []
        replies = await asyncio.gather(*map(self._run_and_wait, batches))
        ids = [""] * len(publications)
        assigned = iter([id for reply in replies for id in reply])
        for numbers in rooms.values():
            for number in numbers:
                ids[number] = next(assigned).decode()
        return ids

    async def _run_and_wait(self, batch: list[RoomBatch]) -> list[bytes]:
        slot, reply = self._run(batch)
        try:
            ids = await reply
        finally:
            self._slots.release(slot)
        self._record(batch, ids)
        return ids
