"""Publishing: what is published in one turn of the loop goes out in one call, and while a batch of a room is under way
what else is published there waits for the next.

So there is one batch of a room under way at a time, which keeps the order also when it has to be sent again; and the
busier a room or Redis is, the larger the batches and the cheaper each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ..base import KEY_TTL, Publication
from .connection import Part
from .keys import Keys
from .router import Router
from .scripts import Script

PUBLISH: Final = Script("room", "publish", stamped=True)

#: Events in one batch at most; the rest waits for the next. Redis is busy with so many for about 1 ms.
MOST: Final = 128

Item = tuple[bytes, str | None, "asyncio.Future[str]"]
#: Of a room: the events of a batch.
Group = tuple[str, Sequence[tuple[bytes, str | None, Any]]]


class _Numbers:
    """Names for the receipts of batches under way: ``take`` gives a place that is free, and a number never given."""

    def __init__(self) -> None:
        self._free: Final[list[int]] = []
        self._places = 0
        self._last = 0

    def take(self) -> tuple[int, int]:
        self._last += 1
        if self._free:
            return self._free.pop(), self._last
        self._places += 1
        return self._places, self._last

    def give_back(self, place: int) -> None:
        self._free.append(place)


class Publisher:
    """Publishes for one node. ``keep`` events stay in a stream, for ``ttl_ms``; a room's meta for ``life_ms``."""

    def __init__(
        self, router: Router, keys: Keys, node: str, keep: int, ttl_ms: int, life_ms: int, patience: float
    ) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._node: Final = node
        self._patience: Final = patience
        #: In a Cluster one call is for one room: no other need be on the same server.
        self._apart: Final = router.servers.is_cluster
        announce = "SPUBLISH" if self._apart else "PUBLISH"
        receipt_ms = max(int(patience * 4000), 10_000)
        self._fixed: Final[tuple[Part, ...]] = (receipt_ms, keep, ttl_ms, life_ms, int(KEY_TTL * 1000), announce)
        #: Rooms with a batch under way or due: what waits for the next.
        self._waiting: Final[dict[str, list[Item]]] = {}
        self._due: list[str] = []
        self._numbers: Final = _Numbers()
        self._loop: Final = asyncio.get_running_loop()

    def publish(self, room: str, payload: bytes, key: str | None) -> asyncio.Future[str]:
        """Publish at the end of this turn, or with the next batch of the room; the result is the id.

        Raises ``Unavailable`` if too much waits already, and ``UnicodeEncodeError`` for a ``key`` that is no text:
        here, for together with others it would fail them as well.
        """
        if key is not None:
            key.encode()
        self._router.hold(len(payload))
        future: asyncio.Future[str] = self._loop.create_future()
        waiting = self._waiting.get(room)
        if waiting is not None:
            waiting.append((payload, key, future))
        else:
            self._waiting[room] = [(payload, key, future)]
            self._is_due(room)
        return future

    def _is_due(self, room: str) -> None:
        if not self._due:
            self._loop.call_soon(self._send_due)
        self._due.append(room)

    def _send_due(self) -> None:
        due, self._due = self._due, []
        batch: list[Group] = []
        events = 0
        for room in due:
            waiting = self._waiting[room]
            items = waiting[:MOST]
            self._waiting[room] = waiting[MOST:]
            # From here the call holds them. Who gave up before, is not published.
            self._router.let_go(sum(len(payload) for payload, _, _ in items))
            items = [item for item in items if not item[2].done()]
            if not items:
                self._next(room)
                continue
            batch.append((room, items))
            events += len(items)
            if self._apart or events >= MOST:
                self._send(batch)
                batch, events = [], 0
        if batch:
            self._send(batch)

    def _send(self, batch: list[Group]) -> None:
        try:
            place, reply = self._run(batch)
        except Exception as error:  # the server is away and the buffer full
            self._end(batch, error)
        else:
            reply.add_done_callback(partial(self._sent, batch, place))

    def _run(self, batch: list[Group]) -> tuple[int, asyncio.Future[list[bytes]]]:
        """Run publish.lua; return the place of its receipt, to be given back when it is done."""
        names = self._keys
        place, number = self._numbers.take()
        keys = [names.receipt(batch[0][0], f"{self._node}/{place}")]
        args: list[Part] = [number, *self._fixed, len(batch)]
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
            return place, self._router.run(PUBLISH, keys, args, patience=self._patience, size=size)
        except BaseException:
            self._numbers.give_back(place)
            raise

    def _sent(self, batch: list[Group], place: int, reply: asyncio.Future[list[bytes]]) -> None:
        self._numbers.give_back(place)
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        if error is not None:
            self._end(batch, error)
            return
        ids = iter(reply.result())
        for room, items in batch:
            for _, _, future in items:
                id = next(ids)
                if not future.done():
                    future.set_result(id.decode())
            self._next(room)

    def _end(self, batch: list[Group], error: BaseException) -> None:
        for room, items in batch:
            for _, _, future in items:
                if not future.done():
                    future.set_exception(error)
            self._next(room)

    def _next(self, room: str) -> None:
        if self._waiting[room]:
            self._is_due(room)
        else:
            del self._waiting[room]

    async def finish(self, seconds: float) -> None:
        """Wait until what ``publish`` was given is done, and what is begun in this turn, but no longer than this."""
        deadline = self._loop.time() + seconds
        await asyncio.sleep(0)
        # Only the end of a node waits here, which is not worth an event for each batch.
        while self._waiting and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all in one step; in a Cluster, in one step for each room."""
        rooms: dict[str, list[int]] = {}
        for number, publication in enumerate(publications):
            rooms.setdefault(publication.room, []).append(number)
        batch: list[Group] = [
            (room, [(publications[number].payload, publications[number].key, None) for number in numbers])
            for room, numbers in rooms.items()
        ]
        batches = [[group] for group in batch] if self._apart else [batch] if batch else []
        replies = await asyncio.gather(*map(self._finish, batches))
        ids = [""] * len(publications)
        given = iter([id for reply in replies for id in reply])
        for numbers in rooms.values():
            for number in numbers:
                ids[number] = next(given).decode()
        return ids

    async def _finish(self, batch: list[Group]) -> list[bytes]:
        place, reply = self._run(batch)
        try:
            return await reply
        finally:
            self._numbers.give_back(place)
