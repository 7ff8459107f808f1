"""Publishing: what is published in one room while a batch of it is under way goes out together in the next.

So there is one batch of a room under way at a time, which keeps the order also when a batch has to be sent again; and
the busier a room or Redis is, the larger its batches and the cheaper each event.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ..broker import KEY_TTL, Publication
from .keys import Keys
from .link import Part
from .router import Router
from .scripts import Script

PUBLISH: Final = Script("room", "publish", stamped=True)

#: Events in one batch at most; the rest waits for the next. Redis takes about 1 ms for so many, and nobody else's.
MOST: Final = 128

Item = tuple[bytes, str | None, "asyncio.Future[str]"]


class _Room:
    """The events of a room that wait for the batch under way to be done."""

    __slots__ = ("flying", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.flying = False


class Outbox:
    """Publishes for one node. ``lives`` are texts for publish.lua: history size, its ms, the meta's ms."""

    def __init__(
        self, router: Router, keys: Keys, node: str, size: int, ttl_ms: int, life_ms: int, patience: float
    ) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._node: Final = node
        self._patience: Final = patience
        announce = "SPUBLISH" if router.servers.is_cluster else "PUBLISH"
        receipt_ms = max(int(patience * 4000), 10_000)
        self._fixed: Final[tuple[Part, ...]] = (*(receipt_ms, size, ttl_ms, life_ms, int(KEY_TTL * 1000), announce),)
        self._rooms: Final[dict[str, _Room]] = {}
        self._due: list[str] = []
        self._numbers: Final = itertools.count(1)
        self._loop: Final = asyncio.get_running_loop()

    def publish(self, room: str, payload: bytes, key: str | None) -> asyncio.Future[str]:
        """Publish at the end of this turn, or with the next batch of the room; the result is the id."""
        entry = self._rooms.get(room)
        if entry is None:
            entry = self._rooms[room] = _Room()
        future: asyncio.Future[str] = self._loop.create_future()
        entry.items.append((payload, key, future))
        if not entry.flying:
            entry.flying = True
            if not self._due:
                self._loop.call_soon(self._send_due)
            self._due.append(room)
        return future

    def _send_due(self) -> None:
        due, self._due = self._due, []
        for room in due:
            self._send(room)

    def _send(self, room: str) -> None:
        entry = self._rooms[room]
        items = [item for item in entry.items[:MOST] if not item[2].done()]  # who gave up before, is not published
        entry.items = entry.items[MOST:]
        if not items:
            self._next(room, entry)
            return
        keys = [self._keys.receipt(room, self._node)]
        args: list[Part] = [*self._fixed, 1]
        self._add(room, items, keys, args)
        try:
            batch = self._router.run(PUBLISH, keys, args, patience=self._patience)
        except Exception as error:  # the server is away and the buffer full
            self._fail(items, error)
            self._next(room, entry)
        else:
            batch.add_done_callback(partial(self._sent, room, entry, items))

    def _add(
        self, room: str, items: Sequence[tuple[bytes, str | None, Any]], keys: list[str], args: list[Part]
    ) -> None:
        """Add a room's events to the arguments of publish.lua."""
        names = self._keys
        keys += (names.meta(room), names.stream(room), names.channel(room))
        args.append(len(items))
        for payload, key, _ in items:
            if key is None:
                args += (b"", payload)
            else:
                keys.append(names.key(room, key))
                args += (b"1", payload)

    def _sent(self, room: str, entry: _Room, items: Sequence[Item], batch: asyncio.Future[list[bytes]]) -> None:
        if batch.cancelled():
            for _, _, future in items:
                future.cancel()
        elif (error := batch.exception()) is not None:
            self._fail(items, error)
        else:
            for (_, _, future), id in zip(items, batch.result(), strict=True):
                if not future.done():
                    future.set_result(id.decode())
        self._next(room, entry)

    @staticmethod
    def _fail(items: Sequence[Item], error: BaseException) -> None:
        for _, _, future in items:
            if not future.done():
                future.set_exception(error)

    def _next(self, room: str, entry: _Room) -> None:
        if entry.items:
            if not self._due:
                self._loop.call_soon(self._send_due)
            self._due.append(room)
        else:
            del self._rooms[room]

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all in one step; in a Cluster, in one step for each room."""
        if not publications:
            return []
        rooms: dict[str, list[int]] = {}
        for number, publication in enumerate(publications):
            rooms.setdefault(publication.room, []).append(number)
        groups = [[one] for one in rooms.items()] if self._router.servers.is_cluster else [list(rooms.items())]
        ids = [""] * len(publications)
        replies = await asyncio.gather(*[self._group(group, publications) for group in groups])
        for group, reply in zip(groups, replies, strict=True):
            numbers = [number for _, numbers in group for number in numbers]
            for number, id in zip(numbers, reply, strict=True):
                ids[number] = id.decode()
        return ids

    async def _group(self, group: list[tuple[str, list[int]]], publications: Sequence[Publication]) -> list[bytes]:
        keys = [self._keys.receipt(group[0][0], f"{self._node}/{next(self._numbers)}")]
        args: list[Part] = [*self._fixed, len(group)]
        for room, numbers in group:
            items = [(publications[number].payload, publications[number].key, None) for number in numbers]
            self._add(room, items, keys, args)
        ids: list[bytes] = await self._router.run(PUBLISH, keys, args, patience=self._patience)
        return ids
