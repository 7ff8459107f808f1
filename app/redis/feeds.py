"""What comes in: subscriptions, and the promise that no hole goes unseen.

The stream is the truth and pub/sub only wakes. Offsets of a room are consecutive, so what is missing shows: at the next
event, or for a quiet room when it is compared with its stream, which is done when it is subscribed, whenever the
connection was lost, and now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from ..broker import Event, History, Listener
from ..errors import Unavailable
from .keeper import Keeper, Lost, spell
from .keys import Keys
from .link import Link, ReplyError, pack
from .router import Opener, Router
from .scripts import Script
from .servers import Address, Name

log = logging.getLogger("roomcast.redis")

LOOK: Final = Script("room", "look", stamped=True)
HISTORY: Final = Script("room", "history", stamped=True)

#: Rooms in one conversation at most when many are subscribed: Redis answers others in between.
_PORTION: Final = 256
#: A room is compared with its stream so often if it is quiet, in seconds; a slice of all rooms each second.
QUIET: Final = 20.0
#: Events fetched at once to mend a hole.
_PAGE: Final = 256
_UNKNOWN: Final = -1
#: How long a message may be on its way from Redis before it is fetched instead, in seconds.
_ON_ITS_WAY: Final = 0.1


class Feed:
    """A subscribed room: up to which event the listener was told. ``held`` are messages that must wait, or None.

    ``epoch`` is "" for a room that has had none yet, ``last`` is ``_UNKNOWN`` until it is known where the room stands.
    ``heard``: something came since the last look.
    """

    __slots__ = ("epoch", "heard", "held", "last", "room")

    def __init__(self, room: str) -> None:
        self.room: Final = room
        self.epoch = ""
        self.last = _UNKNOWN
        self.held: list[bytes] | None = []
        self.heard = True


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


class _Subscriber:
    """The subscriptions on one server."""

    def __init__(self, name: Name, feeds: Feeds, open_: Opener) -> None:
        self.name: Final = name
        self._feeds: Final = feeds

        async def dial(address: Address | None, lost: Lost) -> Link:
            return await open_(address, feeds.pushed, lost)

        where = feeds.router.servers.address
        self.keeper: Final = Keeper(name, "subscriptions", where, dial, self._up, self._down)

    def _up(self, link: Link) -> None:
        self._feeds.connected(self.name, link)

    def _down(self, link: Link, why: str) -> None:
        for done in link.abandoned:
            done(ReplyError(f"LOST {why}"))
        self._feeds.router.look_soon()


class Feeds:
    """All subscriptions of one node. A look prolongs the meta's life to ``life_ms``; streams have ``keep`` events."""

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
        self.router: Final = router
        self._keys: Final = keys
        self._open: Final = open_
        self._listener: Final = listener
        self._size: Final = size
        self._keep: Final = keep
        self._ttl_ms: Final = ttl_ms
        self._life_ms: Final = life_ms
        self._loop: Final = asyncio.get_running_loop()
        self._sharded: Final = router.servers.is_cluster
        self._subscribers: Final[dict[Name, _Subscriber]] = {}
        self._feeds: Final[dict[bytes, Feed]] = {}
        #: Who waits for a room's subscription to be ready.
        self._pending: Final[dict[bytes, asyncio.Future[None]]] = {}
        #: What is subscribed (True) or unsubscribed at the end of this turn.
        self._changes: dict[bytes, bool] = {}
        #: Rooms whose history is being read, with what the listener is told of meanwhile.
        self._recording: Final[dict[str, list[_Record]]] = {}
        self._mending: Final[dict[str, asyncio.Task[None]]] = {}
        #: A channel of our own, for proofs that the way through Redis and back is whole.
        self._echo_channel: Final = f"{keys.prefix}:!echo:{node}".encode()
        self._echo: asyncio.Future[None] | None = None
        self._rounds: deque[bytes] = deque()
        self._version = 0
        self._minder: asyncio.Task[None] | None = None
        self._lost_rooms: list[str] = []
        #: For the metrics.
        self.repaired = 0
        self.resyncs = 0
        router.on_look.append(self._arrange)

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        deadline = self._loop.time() + wait
        self._arrange()
        while troubles := self.troubles():
            if self._loop.time() > deadline:
                raise Unavailable(troubles[0])
            await asyncio.sleep(0.01)
        self._minder = asyncio.create_task(self._mind(), name="roomcast redis quiet rooms")

    async def close(self) -> None:
        """Unsubscribe from everything."""
        tasks = [*self._mending.values(), *([self._minder] if self._minder is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for subscriber in list(self._subscribers.values()):
            await subscriber.keeper.close()
        self._subscribers.clear()
        self._feeds.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Unavailable("This node is closing its broker."))

    def troubles(self) -> list[str]:
        """A sentence for each server whose subscriptions are down."""
        return [
            f"Redis at {spell(one.name)} cannot be reached (subscriptions): {one.keeper.why}."
            for one in self._subscribers.values()
            if one.keeper.link is None
        ]

    def _arrange(self) -> None:
        """Have a connection for each server there is now; move the rooms whose server is another now."""
        servers = self.router.servers
        names = servers.names()
        for name in names:
            if name not in self._subscribers:
                self._subscribers[name] = _Subscriber(name, self, self._open)
            else:
                self._subscribers[name].keeper.mind(servers.address(name))
        if servers.version != self._version:
            # Slots have moved, perhaps between servers that were there before. To subscribe once more harms nothing.
            self._version = servers.version
            for channel in self._feeds:
                self._change(channel, True)
        gone = [name for name in self._subscribers if name not in names]
        for name in gone:
            asyncio.ensure_future(self._subscribers.pop(name).keeper.close())  # noqa: RUF006  # nothing waits for it

    # Subscribing.

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        waits = []
        for room in rooms:
            channel = self._keys.channel(room).encode()
            if channel not in self._feeds:
                self._link(channel)  # or raise
                self._feeds[channel] = Feed(room)
                self._pending[channel] = self._loop.create_future()
                self._change(channel, True)
            if (pending := self._pending.get(channel)) is not None:
                waits.append(pending)
        for pending in waits:
            await asyncio.shield(pending)

    def unsubscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``; takes effect at once."""
        for room in rooms:
            channel = self._keys.channel(room).encode()
            if self._feeds.pop(channel, None) is not None:
                self._fulfil(channel, Unavailable("Unsubscribed meanwhile."))
                self._change(channel, False)

    def _change(self, channel: bytes, wanted: bool) -> None:
        if not self._changes:
            self._loop.call_soon(self._carry_out)
        # The last word counts: a leave and a join of one turn come to a subscription that is looked at anew.
        self._changes.pop(channel, None)
        self._changes[channel] = wanted

    def _link(self, channel: bytes) -> Link:
        name = self.router.servers.name(channel)
        subscriber = self._subscribers.get(name)
        if subscriber is None or subscriber.keeper.link is None:
            why = "not connected yet" if subscriber is None else subscriber.keeper.why
            raise Unavailable(f"Redis at {spell(name)} cannot be reached (subscriptions): {why}.")
        return subscriber.keeper.link

    def _carry_out(self) -> None:
        changes, self._changes = self._changes, {}
        new: dict[Link, list[bytes]] = {}
        for channel, wanted in changes.items():
            try:
                link = self._link(channel)
            except Unavailable as error:
                if wanted:
                    self._drop(channel, error)
                continue
            if wanted:
                new.setdefault(link, []).append(channel)
            else:
                link.tell(pack(("SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE", channel)))
        for link, channels in new.items():
            self._begin(link, channels)

    def _begin(self, link: Link, channels: list[bytes]) -> None:
        for i in range(0, len(channels), _PORTION):
            self._introduce(link, channels[i : i + _PORTION])

    def _introduce(self, link: Link, channels: list[bytes]) -> None:
        """Subscribe, and look where the rooms stand, on one connection: the looks come after the subscriptions."""
        if self._sharded:
            parts = [pack(("SSUBSCRIBE", channel)) for channel in channels]
        else:
            parts = [pack(("SUBSCRIBE", *channels))]
        for channel in channels:
            feed = self._feeds.get(channel)
            begun = feed is not None and bool(feed.epoch)
            args = (b"0", self._life_ms, b"1" if begun else b"0")
            parts.append(pack(("EVALSHA", LOOK.sha, 2, channel + b":m", channel + b":s", link.run_id, *args)))

        def done(replies: Any) -> None:
            self._introduced(channels, replies)

        link.converse(b"".join(parts), secrets.token_bytes(8), done)

    def _introduced(self, channels: list[bytes], replies: Any) -> None:
        errors = (
            [replies] if isinstance(replies, ReplyError) else [one for one in replies if isinstance(one, ReplyError)]
        )
        if errors or len(replies) != len(channels):
            self._not_introduced(channels, errors)
            return
        for channel, state in zip(channels, replies, strict=True):
            feed = self._feeds.get(channel)
            if feed is not None:
                self._stands(feed, state)
                self._fulfil(channel, None)

    def _not_introduced(self, channels: list[bytes], errors: list[ReplyError]) -> None:
        """The server was lost or is another one now. Who was told to be subscribed will be, the others get an error."""
        if not errors or errors[0].code != "LOST":
            log.warning("Redis refused a subscription: %s", errors[0] if errors else "a reply is missing")
            self.router.look_soon()
            self._loop.call_later(0.2, self._again, channels)
        for channel in channels:
            self._drop(channel, Unavailable("Redis did not take the subscription now; try again."))

    def _again(self, channels: list[bytes]) -> None:
        for channel in channels:
            if channel in self._feeds:
                self._change(channel, True)

    def _drop(self, channel: bytes, error: Unavailable) -> None:
        """Give up a subscription that somebody waits for; one that was ready before is taken up again some time."""
        if channel in self._pending:
            self._feeds.pop(channel, None)
            self._fulfil(channel, error)

    def _fulfil(self, channel: bytes, error: Unavailable | None) -> None:
        pending = self._pending.pop(channel, None)
        if pending is None or pending.done():
            return
        if error is None:
            pending.set_result(None)
        else:
            pending.set_exception(error)
            pending.exception()  # who waits gets it all the same; if nobody does, that is no fault

    def connected(self, name: Name, link: Link) -> None:
        """A server is there (again): subscribe to all its rooms, and look what they have missed."""
        mine = [channel for channel in self._feeds if self._is_on(channel, name)]
        self._begin(link, mine)
        if self._is_on(self._echo_channel, name):
            link.tell(pack(("SUBSCRIBE", self._echo_channel)))

    def _is_on(self, channel: bytes, name: Name) -> bool:
        try:
            return self.router.servers.name(channel) == name
        except Unavailable:
            return False

    # Hearing.

    def pushed(self, push: list[Any]) -> None:
        """Take what the server sends unasked."""
        kind = push[0]
        if kind == b"message" or kind == b"smessage":
            feed = self._feeds.get(push[1])
            if feed is not None:
                self._hear(feed, push[2])
            elif push[1] == self._echo_channel and self._echo is not None and not self._echo.done():
                self._echo.set_result(None)
        elif kind == b"sunsubscribe" and push[1] in self._feeds:  # its slot went to another server
            self.router.look_soon()
            self._loop.call_later(0.2, self._again, [push[1]])

    def _hear(self, feed: Feed, message: bytes) -> None:
        if feed.held is not None:
            feed.held.append(message)
            return
        feed.heard = True
        head, _, body = message.partition(b"\n")
        words = head.split(b" ")
        epoch = words[0].decode()
        first = int(words[1])
        if epoch != feed.epoch and not self._turn(feed, epoch, first):
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

    def _turn(self, feed: Feed, epoch: str, first: int) -> bool:
        """A message of another epoch than the feed's: False if it is an old one, to be passed over."""
        if feed.epoch and int(epoch) < int(feed.epoch):
            return False
        if feed.epoch:
            self._lost(feed, epoch, first - 1)
        else:
            feed.epoch = epoch
        return True

    def _tell(self, feed: Feed, offset: int, payload: bytes) -> None:
        feed.last = offset
        room = feed.room
        if self._recording and room in self._recording:
            for record in self._recording[room]:
                record.add(feed.epoch, offset, payload)
        self._listener.on_event(room, f"{feed.epoch}-{offset}", payload)

    def _lost(self, feed: Feed, epoch: str, last: int) -> None:
        """What came before ``last`` in ``epoch`` cannot be told any more."""
        feed.epoch, feed.last = epoch, last
        if not self._lost_rooms:
            self._loop.call_later(1.0, self._tell_lost)
        self._lost_rooms.append(feed.room)
        self.resyncs += 1
        self._listener.on_resync(feed.room, f"{epoch}-{last}")

    def _tell_lost(self) -> None:
        rooms, self._lost_rooms = self._lost_rooms, []
        some = ", ".join(rooms[:3]) + (", …" if len(rooms) > 3 else "")
        log.warning("Redis has lost events of %d rooms (%s); their members were told to resync", len(rooms), some)

    # Holes.

    def _stands(self, feed: Feed, state: list[bytes] | None) -> None:
        """The room's stream is at ``state``: for a new feed, the place to begin; for others, to be caught up with."""
        epoch, top = ("", 0) if state is None else (state[0].decode(), int(state[1]))
        if feed.last == _UNKNOWN:
            feed.epoch, feed.last = epoch, top
            self._release(feed)
            return
        if feed.held is not None:  # is being mended
            return
        if not feed.epoch:  # had no event yet
            feed.epoch = epoch
        if epoch != feed.epoch or top > feed.last:
            self._mend(feed)

    def _release(self, feed: Feed) -> None:
        """Tell what was held back."""
        held, feed.held = feed.held or [], None
        for number, message in enumerate(held):
            self._hear(feed, message)
            if feed.held is not None:  # another hole
                feed.held += held[number + 1 :]
                return

    def _mend(self, feed: Feed) -> asyncio.Task[None]:
        """Fetch what is missing before anything else is told; ``held`` keeps the order meanwhile."""
        task = self._mending.get(feed.room)
        if task is None or task.done():
            if feed.held is None:
                feed.held = []
            task = self._mending[feed.room] = self._loop.create_task(self._fetch(feed))
            task.add_done_callback(lambda done: self._mended(feed.room, done))
        return task

    def _mended(self, room: str, task: asyncio.Task[None]) -> None:
        if self._mending.get(room) is task:
            del self._mending[room]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Mending a hole in room %s failed", room, exc_info=error)

    async def _fetch(self, feed: Feed) -> None:
        pause = 0.05
        channel = self._keys.channel(feed.room).encode()
        while self._feeds.get(channel) is feed:
            try:
                epoch, top, reaches, events = await self._read(feed.room, feed.epoch, str(feed.last), _PAGE, self._keep)
            except Unavailable:
                await asyncio.sleep(pause)  # what the connection's return would tell, comes through here, too
                pause = min(pause * 2, 1.0)
                continue
            if self._feeds.get(channel) is not feed:
                return
            if not reaches:
                self._lost(feed, epoch, top)
            for event in events:
                self.repaired += 1
                self._tell(feed, int(event.id.rpartition("-")[2]), event.payload)
            if feed.last >= top:
                del self._mending[feed.room]  # what is released may show another hole
                self._release(feed)
                return

    # Reading.

    async def _read(
        self, room: str, epoch: str, since: str, limit: int, size: int
    ) -> tuple[str, int, bool, list[Event]]:
        """Return the epoch, the newest offset, whether history reaches back to ``since``, and the events after it."""
        keys = self._keys
        args = (epoch, since, limit, size, self._ttl_ms, self._life_ms)
        reply = await self.router.run(HISTORY, (keys.meta(room), keys.stream(room)), args)
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
        feed = self._feeds.get(self._keys.channel(room).encode())
        if feed is None or feed.last == _UNKNOWN or limit is not None:
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

    async def _catch_up(self, feed: Feed, record: _Record, epoch: str, top: int) -> None:
        """Wait until the listener was told of ``top``: by a message that is on its way, or else by what is fetched."""
        if not feed.epoch:  # had no event when it was looked at
            feed.epoch = epoch
        if feed.epoch == epoch and feed.last < top:
            record.goal = top
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ON_ITS_WAY):
                    await record.reached
        channel = self._keys.channel(feed.room).encode()
        while self._feeds.get(channel) is feed and _behind(feed, epoch, top):
            await asyncio.shield(self._mend(feed))

    # Minding.

    async def echo(self) -> None:
        """Publish something to this node, and wait until it is here."""
        if self._echo is None or self._echo.done():
            self._echo = self._loop.create_future()
        await self.router.call(self._echo_channel.decode(), "PUBLISH", self._echo_channel, b"")
        await asyncio.shield(self._echo)

    async def _mind(self) -> None:
        """Look at each quiet room once in ``QUIET`` seconds, a few each second."""
        while True:
            await asyncio.sleep(1.0)
            if not self._rounds:
                self._rounds = deque(self._feeds)
            for _ in range(min(len(self._rounds), len(self._feeds) // int(QUIET) + 1)):
                channel = self._rounds.popleft()
                feed = self._feeds.get(channel)
                if feed is None:
                    continue
                if feed.held is None and not feed.heard:
                    self._look(channel, feed)
                feed.heard = False

    def _look(self, channel: bytes, feed: Feed) -> None:
        def looked(future: asyncio.Future[Any]) -> None:
            if not future.cancelled() and future.exception() is None and self._feeds.get(channel) is feed:
                self._stands(feed, future.result())

        keys = (self._keys.meta(feed.room), self._keys.stream(feed.room))
        try:
            reply = self.router.run(LOOK, keys, (self._life_ms, b"1" if feed.epoch else b"0"))
        except Unavailable:
            return
        reply.add_done_callback(looked)


def _split(since: str) -> tuple[str, str]:
    """Epoch and offset of an id; what cannot be one becomes an id that no room has given."""
    epoch, _, digits = since.rpartition("-")
    if len(digits) > 15 or not digits.isascii() or not digits.isdecimal() or str(int(digits)) != digits:
        return "none", "0"
    return (epoch, digits) if epoch.isascii() and epoch.isdecimal() and len(epoch) < 20 else ("none", "0")


def _behind(feed: Feed, epoch: str, top: int) -> bool:
    """Whether the listener was told of less than the event ``top`` of ``epoch``."""
    return int(feed.epoch) < int(epoch) or (feed.epoch == epoch and feed.last < top)
