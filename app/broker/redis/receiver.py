"""What comes in, and the promise that no hole goes unseen.

The stream is the truth and pub/sub only wakes. Offsets of a room are consecutive, so what is missing shows: at the next
event, or for a quiet room when it is compared with its stream, which is done when it is subscribed, whenever the
connection was lost, and now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any, Final

from ...backoff import Backoff
from ...errors import Unavailable
from ..base import Event, History, Listener
from .keys import Keys
from .router import Opener, Router
from .scripts import Script
from .subscriptions import LOOK, UNKNOWN, Subscription, Subscriptions

log = logging.getLogger("roomcast.redis")

HISTORY: Final = Script("room", "history", stamped=True)

#: A room is compared with its stream so often if it is quiet, in seconds; a slice of all rooms each second.
QUIET: Final = 20.0
#: Events fetched at once to mend a hole.
_PAGE: Final = 256
#: How long a message may be on its way from Redis before it is fetched instead, in seconds.
_ON_ITS_WAY: Final = 0.1
#: How often the log is told of strange messages at most, in seconds.
_STRANGE: Final = 60.0


class _Record:
    """What the listener is told of a room while its history is read; ``reached`` when that comes up to ``goal``."""

    __slots__ = ("events", "goal", "reached")

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self.events: list[tuple[str, int, bytes]] = []
        self.goal = 0
        self.reached: Final = reached

    def add(self, epoch: str, offset: int, payload: bytes) -> None:
        """One more event was told."""
        self.events.append((epoch, offset, payload))
        if self.goal and offset >= self.goal and not self.reached.done():
            self.reached.set_result(None)


class Receiver:
    """What one node hears. Streams have ``keep`` events, of which history gives ``size``, each for ``ttl_ms``.

    A look at a room keeps it for ``life_ms``.
    """

    def __init__(
        self,
        router: Router,
        keys: Keys,
        open_: Opener,
        listener: Listener,
        size: int,
        keep: int,
        ttl_ms: int,
        life_ms: int,
        node: str,
    ) -> None:
        self.subscriptions: Final = Subscriptions(router, keys, open_, life_ms, node, self._hear, self._stand)
        self._router: Final = router
        self._keys: Final = keys
        self._listener: Final = listener
        self._size: Final = size
        self._keep: Final = keep
        self._ttl_ms: Final = ttl_ms
        self._life_ms: Final = life_ms
        self._loop: Final = asyncio.get_running_loop()
        #: Rooms whose history is being read, with what the listener is told of meanwhile.
        self._recording: Final[dict[str, list[_Record]]] = {}
        #: By feed, not by room: a room that is left and joined again has a new one.
        self._mending: Final[dict[Subscription, asyncio.Task[None]]] = {}
        self._rounds: deque[bytes] = deque()
        self._minder: asyncio.Task[None] | None = None
        self._lost_rooms: dict[str, None] = {}
        self._strange_until = 0.0
        #: Set, and replaced, when a server has come back.
        self._returned = asyncio.Event()
        router.on_return.append(self._wake)
        #: For the metrics.
        self.repaired = 0
        self.resyncs = 0

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        await self.subscriptions.start(wait)
        self._minder = asyncio.create_task(self._mind(), name="roomcast redis quiet rooms")

    async def close(self) -> None:
        """Hear nothing more."""
        tasks = [*self._mending.values(), *([self._minder] if self._minder is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.subscriptions.close()

    # Hearing.

    def _hear(self, feed: Subscription, message: bytes) -> None:
        if feed.held is not None:
            feed.held.append(message)
            return
        head, _, body = message.partition(b"\n")
        words = head.split(b" ")
        try:
            epoch = words[0].decode()
            first = int(words[1])
            if epoch != feed.epoch and not self._turn(feed, epoch, message):
                return
            expected = feed.last + 1
            if first > expected:
                feed.held = [message]
                self._mend(feed)
                return
            if len(words) == 2:
                if first == expected:
                    self._tell(feed, first, body)
                return
            start = 0
            for offset, length in enumerate(map(int, words[2:]), first):
                if offset > feed.last:
                    self._tell(feed, offset, body[start : start + length])
                start += length
        except (ValueError, IndexError):
            self._pass_over(feed)

    def _turn(self, feed: Subscription, epoch: str, message: bytes) -> bool:
        """Whether a message of another epoch than the feed's is the first of its room.

        If not it is an old one, to be passed over, or Redis has lost what was before, which the stream must say.
        """
        number = int(epoch)
        if not feed.epoch:
            feed.epoch = epoch
            return True
        if number > int(feed.epoch):
            feed.held = [message]
            self._mend(feed)
        return False

    def _pass_over(self, feed: Subscription) -> None:
        """A message that no node has sent: somebody else uses the channel."""
        now = self._loop.time()
        if now > self._strange_until:
            self._strange_until = now + _STRANGE
            log.warning("Something that no node of this version sent came in room %s; who else publishes?", feed.room)

    def _tell(self, feed: Subscription, offset: int, payload: bytes) -> None:
        feed.last = offset
        feed.heard = True
        room = feed.room
        if self._recording and room in self._recording:
            for record in self._recording[room]:
                record.add(feed.epoch, offset, payload)
        try:
            self._listener.on_event(room, f"{feed.epoch}-{offset}", payload)
        except Exception:  # or what comes after it would not be told
            log.exception("An event in room %s could not be delivered", room)

    def _lost(self, feed: Subscription, epoch: str, last: int) -> None:
        """What came before ``last`` in ``epoch`` cannot be told any more."""
        feed.epoch, feed.last = epoch, last
        if not self._lost_rooms:
            self._loop.call_later(1.0, self._tell_lost)
        self._lost_rooms[feed.room] = None
        self.resyncs += 1
        self._listener.on_resync(feed.room, f"{epoch}-{last}")

    def _tell_lost(self) -> None:
        rooms, self._lost_rooms = list(self._lost_rooms), {}
        some = ", ".join(rooms[:3]) + (", …" if len(rooms) > 3 else "")
        log.warning("Redis has lost events of %d rooms (%s); their members were told to resync", len(rooms), some)

    # Holes.

    def _stand(self, feed: Subscription, state: list[bytes] | None) -> None:
        """The room's stream is at ``state``: for a new feed, the place to begin; for others, to be caught up with."""
        epoch, top = ("", 0) if state is None else (state[0].decode(), int(state[1]))
        if feed.last == UNKNOWN:
            feed.epoch, feed.last = epoch, top
            self._release(feed)
            return
        if feed.held is not None:  # is being mended
            return
        if not feed.epoch:  # had no event yet
            feed.epoch = epoch
        # Less than was told: an older state has been restored, or one more was told meanwhile. The stream will say.
        if epoch != feed.epoch or top != feed.last:
            self._mend(feed)

    def _release(self, feed: Subscription) -> None:
        """Tell what was held back."""
        held, feed.held = feed.held or [], None
        for number, message in enumerate(held):
            self._hear(feed, message)
            if feed.held is not None:  # another hole
                feed.held += held[number + 1 :]
                return

    def _mend(self, feed: Subscription) -> asyncio.Task[None]:
        """Fetch what is missing before anything else is told; ``held`` keeps the order meanwhile."""
        task = self._mending.get(feed)
        if task is None:
            if feed.held is None:
                feed.held = []
            task = self._mending[feed] = self._loop.create_task(self._fetch(feed))
            task.add_done_callback(lambda done: self._mended(feed, done))
        return task

    def _mended(self, feed: Subscription, task: asyncio.Task[None]) -> None:
        if self._mending.get(feed) is task:
            del self._mending[feed]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Mending a hole in room %s failed", feed.room, exc_info=error)
            if feed.held is not None:  # nothing is heard until it is mended
                self._loop.call_later(1.0, self._mend, feed)

    def _wake(self) -> None:
        """A server is back: those that mend need not wait any longer."""
        self._returned.set()
        self._returned = asyncio.Event()

    def _is_wanted(self, feed: Subscription) -> bool:
        """Whether the room is still subscribed, and by this feed."""
        return self.subscriptions.feed(feed.room) is feed

    async def _fetch(self, feed: Subscription) -> None:
        backoff = Backoff(0.05, 1.0)
        while self._is_wanted(feed):
            # What was announced until now will be among what is read; if it is not, no node has published it.
            feed.held = []
            try:
                epoch, top, reaches, events = await self._read(feed.room, feed.epoch, str(feed.last), _PAGE, self._keep)
            except Unavailable:
                # What the connection's return would tell, comes through here, too; and the stream grows meanwhile.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next_pause()):
                        await self._returned.wait()
                continue
            if not self._is_wanted(feed):
                return
            if not reaches:
                # Of a new epoch all is told that there is; of the old one nothing more can be.
                self._lost(feed, epoch, 0 if epoch != feed.epoch else top)
            for event in events:
                self.repaired += 1
                self._tell(feed, int(event.id.rpartition("-")[2]), event.payload)
            if feed.last >= top:
                del self._mending[feed]  # what is released may show another hole
                self._release(feed)
                return

    # Reading.

    async def _read(
        self, room: str, epoch: str, since: str, limit: int, size: int
    ) -> tuple[str, int, bool, list[Event]]:
        """Return the epoch, the newest offset, whether history reaches back to ``since``, and the events after it."""
        keys = self._keys
        args = (epoch, since, limit, size, self._ttl_ms, self._life_ms)
        reply = await self._router.run(HISTORY, (keys.meta(room), keys.stream(room)), args)
        found = reply[3]
        events = [Event(found[i].decode(), found[i + 1]) for i in range(0, len(found), 2)]
        return reply[0].decode(), int(reply[1]), reply[2] == 1, events

    async def history(self, room: str, since: str | None, limit: int | None) -> History:
        """See ``Broker``: of a subscribed room, exactly what the listener was told of when this returns.

        The stream may be ahead of what the listener was told; then this waits until it is not. By that time the
        listener may be ahead of what was read; so what it is told meanwhile is recorded, and added.
        """
        epoch_seen, offset = _split(since) if since is not None else ("", "")
        most = self._size if limit is None else min(limit, self._size)
        feed = self.subscriptions.feed(room)
        if feed is None or feed.last == UNKNOWN or limit is not None:
            epoch, top, reaches, events = await self._read(room, epoch_seen, offset, most, self._size)
            return History(events, reaches, f"{epoch}-{top}")
        record = _Record(self._loop.create_future())
        records = self._recording.setdefault(room, [])
        records.append(record)
        try:
            epoch, top, reaches, events = await self._read(room, epoch_seen, offset, most, self._size)
            await self._catch_up(feed, record, epoch, top)
        finally:
            records.remove(record)
            if not records:
                del self._recording[room]
        last_id = f"{feed.epoch}-{feed.last}"
        if feed.epoch != epoch:  # a new one began meanwhile, and members were told to resync
            return History((), since is None, last_id)
        if not reaches:
            return History((), False, last_id)
        later = [Event(f"{e}-{o}", payload) for e, o, payload in record.events if e == epoch and o > top]
        return History([*events, *later], True, last_id)

    async def _catch_up(self, feed: Subscription, record: _Record, epoch: str, top: int) -> None:
        """Wait until the listener was told of ``top``: by a message that is on its way, or else by what is fetched."""
        if not feed.epoch:  # had no event when it was looked at
            feed.epoch = epoch
        if feed.epoch == epoch and feed.last < top:
            record.goal = top
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ON_ITS_WAY):
                    await record.reached
        while self._is_wanted(feed) and _behind(feed, epoch, top):
            await asyncio.shield(self._mend(feed))

    # Minding.

    async def _mind(self) -> None:
        """Look at each quiet room once in ``QUIET`` seconds, a few each second."""
        while True:
            await asyncio.sleep(1.0)
            feeds = self.subscriptions.feeds
            if not self._rounds:
                self._rounds = deque(feeds)
            for _ in range(min(len(self._rounds), len(feeds) // int(QUIET) + 1)):
                feed = feeds.get(self._rounds.popleft())
                if feed is None:
                    continue
                if feed.held is None and not feed.heard:
                    self._look(feed)
                feed.heard = False

    def _look(self, feed: Subscription) -> None:
        def looked(future: asyncio.Future[Any]) -> None:
            if not future.cancelled() and future.exception() is None and self._is_wanted(feed):
                self._stand(feed, future.result())

        keys = (self._keys.meta(feed.room), self._keys.stream(feed.room))
        try:
            reply = self._router.run(LOOK, keys, (self._life_ms, b"1" if feed.epoch else b"0"))
        except Unavailable:
            return
        reply.add_done_callback(looked)


def _split(since: str) -> tuple[str, str]:
    """Epoch and offset of an id; what cannot be one becomes an id that no room has given."""
    epoch, _, digits = since.rpartition("-")
    if len(digits) > 15 or not digits.isascii() or not digits.isdecimal() or str(int(digits)) != digits:
        return "none", "0"
    return (epoch, digits) if epoch.isascii() and epoch.isdecimal() and len(epoch) < 20 else ("none", "0")


def _behind(feed: Subscription, epoch: str, top: int) -> bool:
    """Whether the listener was told of less than the event ``top`` of ``epoch``."""
    return int(feed.epoch) < int(epoch) or (feed.epoch == epoch and feed.last < top)
