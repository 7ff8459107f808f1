"""Which rooms this node hears of: subscribed in batches, each with a look at where the room stands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Final

from ...errors import Unavailable
from .connection import RedisConnection, ReplyError, pack
from .keys import Keys
from .reconnect import Lost, ReconnectingConnection, spell
from .router import ELSEWHERE, Opener, Router
from .scripts import Script
from .topology import Address, Name

log = logging.getLogger("roomcast.redis")

LOOK: Final = Script("room", "look", stamped=True)

#: Rooms in one conversation at most when many are subscribed: Redis answers others in between.
_PORTION: Final = 256
#: How long to wait before asking again for what was refused, in seconds.
_AGAIN: Final = 0.2
#: ``Feed.last`` while it is not known where the room stands.
UNKNOWN: Final = -1
#: ``Feed.epoch`` of a room that had no event yet, as far as this node heard, on a server that has gone.
_GONE: Final = "0"

_LOST: Final = "LOST"
#: Refusals of a look that are not about the room: it is asked again at once.
_RETRIED: Final = ELSEWHERE | {"NOSCRIPT", _LOST}


class Subscription:
    """A subscribed room: up to which event the listener was told. ``held`` are messages that must wait, or None.

    ``epoch`` is "" for a room that has had none yet. ``heard``: an event was told since the last look.
    """

    __slots__ = ("epoch", "heard", "held", "last", "room")

    def __init__(self, room: str) -> None:
        self.room: Final = room
        self.epoch = ""
        self.last = UNKNOWN
        self.held: list[bytes] | None = []
        self.heard = True


class _Subscriber:
    """The subscriptions on one server."""

    def __init__(self, name: Name, subscriptions: Subscriptions, router: Router, open_: Opener) -> None:
        self.name: Final = name
        self._router: Final = router
        self._subscriptions: Final = subscriptions
        self._run_id = b""

        async def dial(address: Address | None, lost: Lost) -> RedisConnection:
            return await open_(address, subscriptions.pushed, lost)

        self.keeper: Final = ReconnectingConnection(
            name, "subscriptions", router.servers.address, dial, self._up, self._down
        )

    def _up(self, link: RedisConnection) -> None:
        before, self._run_id = self._run_id, link.run_id
        self._subscriptions.connected(self.name, link, is_another=before not in (b"", link.run_id))

    def _down(self, link: RedisConnection, why: str) -> None:
        for done in link.abandoned:
            done(ReplyError(f"{_LOST} {why}"))
        self._router.look_soon()


class Subscriptions:
    """The subscribed rooms of one node, ``feeds``, by their channels.

    ``hear`` gets each message of a room; ``stand`` where its stream stands (epoch and newest offset, or None), as the
    first thing after it was subscribed, and whenever a connection was lost. A look keeps a room for ``life_ms``.
    """

    def __init__(
        self,
        router: Router,
        keys: Keys,
        open_: Opener,
        life_ms: int,
        node: str,
        hear: Callable[[Subscription, bytes], None],
        stand: Callable[[Subscription, list[bytes] | None], None],
    ) -> None:
        self.feeds: Final[dict[bytes, Subscription]] = {}
        self._router: Final = router
        self._keys: Final = keys
        self._open: Final = open_
        self._life_ms: Final = life_ms
        self._hear: Final = hear
        self._stand: Final = stand
        self._loop: Final = asyncio.get_running_loop()
        self._sharded: Final = router.servers.is_cluster
        self._subscribers: Final[dict[Name, _Subscriber]] = {}
        #: Who waits for a room's subscription to be ready.
        self._pending: Final[dict[bytes, asyncio.Future[None]]] = {}
        #: What is subscribed (True) or unsubscribed at the end of this turn.
        self._changes: dict[bytes, bool] = {}
        #: A channel of our own, for proofs that the way through Redis and back is whole.
        self._echo_channel: Final = f"{keys.prefix}:!echo:{node}".encode()
        self._echo: asyncio.Future[None] | None = None
        self._version = 0
        router.on_look.append(self._arrange)

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if that takes longer than ``wait`` seconds."""
        deadline = self._loop.time() + wait
        self._arrange()
        while troubles := self.troubles():
            if self._loop.time() > deadline:
                raise Unavailable(troubles[0])
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Unsubscribe from everything."""
        for subscriber in list(self._subscribers.values()):
            await subscriber.keeper.close()
        self._subscribers.clear()
        self.feeds.clear()
        for channel in list(self._pending):
            self._fulfil(channel, Unavailable("This node is closing its broker."))

    def troubles(self) -> list[str]:
        """A sentence for each server whose subscriptions are down."""
        return [
            f"Redis at {spell(one.name)} cannot be reached (subscriptions): {one.keeper.why}."
            for one in self._subscribers.values()
            if one.keeper.link is None
        ]

    def feed(self, room: str) -> Subscription | None:
        """The feed of ``room``, if it is subscribed."""
        return self.feeds.get(self._keys.channel(room).encode())

    async def add(self, rooms: Iterable[str]) -> None:
        """Subscribe to ``rooms``, and wait until it is so; raise ``Unavailable``."""
        waits = []
        for room in rooms:
            channel = self._keys.channel(room).encode()
            if channel not in self.feeds:
                self._link(channel)  # or raise
                self.feeds[channel] = Subscription(room)
                self._pending[channel] = self._loop.create_future()
                self._change(channel, True)
            if (pending := self._pending.get(channel)) is not None:
                waits.append(pending)
        for pending in waits:
            await asyncio.shield(pending)

    def remove(self, rooms: Iterable[str]) -> None:
        """Unsubscribe from ``rooms``; nothing of them is heard from now on."""
        for room in rooms:
            channel = self._keys.channel(room).encode()
            if self.feeds.pop(channel, None) is not None:
                self._fulfil(channel, Unavailable("Unsubscribed meanwhile."))
                self._change(channel, False)

    def _change(self, channel: bytes, wanted: bool) -> None:
        if not self._changes:
            self._loop.call_soon(self._carry_out)
        # The last word counts: a leave and a join of one turn come to a subscription that is looked at anew.
        self._changes.pop(channel, None)
        self._changes[channel] = wanted

    def _carry_out(self) -> None:
        changes, self._changes = self._changes, {}
        old: dict[RedisConnection, list[bytes]] = {}
        new: dict[RedisConnection, list[bytes]] = {}
        for channel, wanted in changes.items():
            try:
                link = self._link(channel)
            except Unavailable as error:
                if wanted:
                    self._drop(channel, error)
                continue
            (new if wanted else old).setdefault(link, []).append(channel)
        command = "SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE"
        for link, channels in old.items():
            link.tell(b"".join([pack((command, channel)) for channel in channels]))
        for link, channels in new.items():
            self._introduce_all(link, channels)

    def _link(self, channel: bytes) -> RedisConnection:
        """The connection that ``channel`` is on; raise ``Unavailable``."""
        name = self._router.servers.name(channel)
        subscriber = self._subscribers.get(name)
        if subscriber is None or subscriber.keeper.link is None:
            why = "not connected yet" if subscriber is None else subscriber.keeper.why
            raise Unavailable(f"Redis at {spell(name)} cannot be reached (subscriptions): {why}.")
        return subscriber.keeper.link

    def _introduce_all(self, link: RedisConnection, channels: list[bytes]) -> None:
        for i in range(0, len(channels), _PORTION):
            self._introduce(link, channels[i : i + _PORTION])

    def _introduce(self, link: RedisConnection, channels: list[bytes]) -> None:
        """Subscribe, and look where the rooms stand, on one connection: the looks come after the subscriptions."""
        if self._sharded:
            parts = [pack(("SSUBSCRIBE", channel)) for channel in channels]
        else:
            parts = [pack(("SUBSCRIBE", *channels))]
        for channel in channels:
            feed = self.feeds.get(channel)
            begun = feed is not None and bool(feed.epoch)
            args = (b"0", self._life_ms, b"1" if begun else b"0")
            parts.append(pack(("EVALSHA", LOOK.sha, 2, channel + b":m", channel + b":s", link.run_id, *args)))

        def done(replies: Any) -> None:
            self._introduced(link, channels, replies)

        link.converse(b"".join(parts), secrets.token_bytes(8), done)

    def _introduced(self, link: RedisConnection, channels: list[bytes], replies: Any) -> None:
        answers = [replies] if isinstance(replies, ReplyError) else replies
        if len(answers) != len(channels):  # subscriptions were refused, or all is lost
            errors = [one for one in answers if isinstance(one, ReplyError)]
            self._not_introduced(link, channels, errors[0] if errors else ReplyError("ERR a reply is missing"))
            return
        refused: dict[str, tuple[ReplyError, list[bytes]]] = {}
        for channel, state in zip(channels, answers, strict=True):
            feed = self.feeds.get(channel)
            if isinstance(state, ReplyError):
                refused.setdefault(state.code, (state, []))[1].append(channel)
            elif feed is not None:
                self._stand(feed, state)
                self._fulfil(channel, None)
        for error, some in refused.values():
            if error.code in _RETRIED:
                self._not_introduced(link, some, error)
            else:
                self._not_told(some, error)

    def _not_told(self, channels: list[bytes], error: ReplyError) -> None:
        """What is kept of these rooms is not as it should be. The others are well, and these are looked at again."""
        log.warning("Redis does not tell where %d rooms stand (%s): %s", len(channels), channels[0].decode(), error)
        for channel in channels:
            self._drop(channel, Unavailable("Redis does not tell where the room stands; the log says why."))

    def _not_introduced(self, link: RedisConnection, channels: list[bytes], error: ReplyError) -> None:
        """The server is lost, or not the right one now. Who waits gets an error; other rooms are tried again."""
        if error.code == "NOSCRIPT":
            link.ask(pack(("SCRIPT", "LOAD", LOOK.text)), None)
            self._loop.call_later(_AGAIN, self._again, channels)
            return
        if error.code != _LOST:
            log.warning("Redis refused a subscription: %s", error)
            self._router.look_soon()
            self._loop.call_later(_AGAIN, self._again, channels)
        for channel in channels:
            self._drop(channel, Unavailable("Redis did not take the subscription now; try again."))

    def _again(self, channels: list[bytes]) -> None:
        for channel in channels:
            if channel in self.feeds:
                self._change(channel, True)

    def _drop(self, channel: bytes, error: Unavailable) -> None:
        """Give up a subscription that somebody waits for; one that was ready before is taken up again some time."""
        if channel in self._pending:
            self.feeds.pop(channel, None)
            self._fulfil(channel, error)
            self._change(channel, False)  # it may have been subscribed all the same

    def _fulfil(self, channel: bytes, error: Unavailable | None) -> None:
        pending = self._pending.pop(channel, None)
        if pending is None or pending.done():
            return
        if error is None:
            pending.set_result(None)
        else:
            pending.set_exception(error)
            pending.exception()  # who waits gets it all the same; if nobody does, that is no fault

    # What the connections tell.

    def _arrange(self) -> None:
        """Have a connection for each server there is now, and subscribe to rooms whose server is another now."""
        servers = self._router.servers
        names = servers.names()
        for name in names:
            if name not in self._subscribers:
                self._subscribers[name] = _Subscriber(name, self, self._router, self._open)
            else:
                self._subscribers[name].keeper.mind(servers.address(name))
        if servers.version != self._version:
            # Slots have moved, perhaps between servers that were there before. To subscribe once more harms nothing.
            self._version = servers.version
            self._again(list(self.feeds))
            with contextlib.suppress(Unavailable):  # else it is done when that server is connected
                self._link(self._echo_channel).tell(pack(("SUBSCRIBE", self._echo_channel)))
        for name in [name for name in self._subscribers if name not in names]:
            asyncio.ensure_future(self._subscribers.pop(name).keeper.close())  # noqa: RUF006  # nothing waits for it

    def connected(self, name: Name, link: RedisConnection, *, is_another: bool) -> None:
        """A server is there (again), or ``is_another``: subscribe to all its rooms, and look what they have missed."""
        mine = [channel for channel in self.feeds if self._is_on(channel, name)]
        if is_another:
            # The first event of such a room may have been acknowledged, and lost on its way here with the server.
            for feed in map(self.feeds.__getitem__, mine):
                if not feed.epoch and feed.last != UNKNOWN:
                    feed.epoch = _GONE
        self._introduce_all(link, mine)
        if self._is_on(self._echo_channel, name):
            link.tell(pack(("SUBSCRIBE", self._echo_channel)))

    def _is_on(self, channel: bytes, name: Name) -> bool:
        try:
            return self._router.servers.name(channel) == name
        except Unavailable:
            return False

    def pushed(self, push: list[Any]) -> None:
        """Take what a server sends unasked."""
        kind = push[0]
        if kind == b"message" or kind == b"smessage":
            feed = self.feeds.get(push[1])
            if feed is not None:
                self._hear(feed, push[2])
            elif push[1] == self._echo_channel and self._echo is not None and not self._echo.done():
                self._echo.set_result(None)
        elif kind == b"sunsubscribe" and push[1] in self.feeds:  # its slot went to another server
            self._router.look_soon()
            self._loop.call_later(_AGAIN, self._again, [push[1]])

    async def echo(self) -> None:
        """Publish something to this node, and wait until it is here."""
        if self._echo is None or self._echo.done():
            self._echo = self._loop.create_future()
        await self._router.call(self._echo_channel.decode(), "PUBLISH", self._echo_channel, b"")
        await asyncio.shield(self._echo)
