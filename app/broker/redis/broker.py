"""The broker that several nodes share: ``broker.Broker`` on Redis. What it promises stands there."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ...errors import Unavailable
from ..base import (
    KEY_TTL,
    Broker,
    BrokerMetric,
    History,
    Listener,
    Member,
    PresenceChange,
    Publication,
    UserId,
)
from .connection import RedisConnection, open_connection
from .keys import Keys
from .leases import Leases
from .presence import Presence
from .publisher import PUBLISH, Publisher
from .receiver import HISTORY, QUIET, Receiver
from .reconnect import Lost
from .router import Router
from .scripts import Script
from .subscriptions import LOOK
from .topology import Address, create_topology
from .urls import Target

log = logging.getLogger("roomcast.redis")

CLAIM: Final = Script("claim")
REVOKE: Final = Script("revoke")

#: The room that carries signals to all nodes; no client can name it.
SIGNALS: Final = "!signals"
#: Nobody is admitted for so many seconds by a Redis that was started anew, or was away for so long that leases ended:
#: the nodes, which all come back within a second or so, have to write theirs first.
ANEW: Final = 1.5
#: How long ``close`` waits for what is being published, in seconds.
_CLOSING: Final = 1.0
#: A stream keeps so many events at least, though history may give fewer: for holes to be mended from.
KEEP: Final = 100

_NOT_RUNNING = "The broker on Redis is not running: it was closed, or not started yet."


class _Ears:
    """The node's listener, with signals told apart from rooms."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Final = listener
        self.on_member_lost: Final = listener.on_member_lost
        self.on_member_returned: Final = listener.on_member_returned
        self.on_signal: Final = listener.on_signal
        self.on_signals_lost: Final = listener.on_signals_lost

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Pass it on."""
        if room == SIGNALS:
            self._listener.on_signal(payload)
        else:
            self._listener.on_event(room, id, payload)

    def on_resync(self, room: str, last_id: str) -> None:
        """Pass it on."""
        if room == SIGNALS:
            self._listener.on_signals_lost()
        else:
            self._listener.on_resync(room, last_id)


class RedisBroker(Broker):
    """The broker on the Redis that ``target`` names; keys begin with ``prefix``.

    Times are in seconds: ``lease`` is how long a node's connections and members outlive it if it dies, ``wait`` how
    long a publish waits for a Redis that is away, ``timeout`` the silence after which a server counts as hung.
    ``buffer`` is the number of bytes that may wait. ``history_size`` and ``history_ttl`` are as in ``MemoryBroker``.
    """

    def __init__(
        self,
        target: Target,
        *,
        prefix: str = "roomcast",
        lease: float = 30.0,
        wait: float = 5.0,
        buffer: int = 16 * 2**20,
        timeout: float = 3.0,
        history_size: int = 500,
        history_ttl: float = 3600.0,
    ) -> None:
        self._target: Final = target
        self._keys: Final = Keys(prefix)
        self._lease: Final = lease
        self._wait: Final = wait
        self._buffer: Final = buffer
        self._timeout: Final = timeout
        self._size: Final = history_size
        self._ttl_ms: Final = max(int(history_ttl * 1000), 1)
        #: A room is known for as long as its history, and while somebody looks at it now and then.
        self._life_ms: Final = max(self._ttl_ms, int(QUIET * 3000))
        self._tls: ssl.SSLContext | None = None
        #: This node's name in Redis.
        self.node: Final = secrets.token_hex(5)
        self._running = False
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, listener: Listener) -> None:
        """See ``Broker``; raises ``Unavailable`` if Redis cannot be reached within ``wait``."""
        self._tls = self._target.ssl_context()
        # The first leases end two thirds of one after a server fell silent, which is noticed ``timeout`` later.
        forgets = max(self._lease * 2 / 3 - self._timeout, 0)
        self._router = Router(create_topology(self._target, self._timeout), self._open, self._buffer, forgets)
        ears = _Ears(listener)
        keep = max(self._size, KEEP)
        self._feeds = Receiver(
            self._router, self._keys, self._open, ears, self._size, keep, self._ttl_ms, self._life_ms, self.node
        )
        self._outbox = Publisher(self._router, self._keys, self.node, keep, self._ttl_ms, self._life_ms, self._wait)
        self._leases = Leases(self._router, self._keys.prefix, self.node, self._lease)
        self._presence = Presence(
            self._router,
            self._keys.prefix,
            self.node,
            self._lease,
            on_member_lost=ears.on_member_lost,
            on_member_returned=ears.on_member_returned,
        )
        try:
            await self._router.start(self._wait)
            await self._feeds.start(self._wait)
            await self._feeds.subscriptions.add([SIGNALS])
            # Nobody is let in before this has started, so that is no worse than to refuse them.
            await asyncio.sleep(self._settled_in())
        except BaseException:
            await self._stop()
            raise
        self._running = True
        self._returned = asyncio.Event()
        self._router.on_return.extend((self._presence.hold, self._returned.set))
        self._renewing = asyncio.create_task(self._renew(), name="roomcast redis leases")

    async def _open(
        self, address: Address | None, on_push: Callable[[list[Any]], None], on_lost: Lost
    ) -> RedisConnection:
        if address is None:
            raise Unavailable("no sentinel has named its primary yet")
        target = self._target
        scripts = (PUBLISH, HISTORY, LOOK, CLAIM, REVOKE)
        tls = self._tls
        credentials = (target.username, target.password)
        return await open_connection(address, credentials, target.db, tls, on_push, on_lost, scripts, self._timeout)

    async def _renew(self) -> None:
        """Renew this node's leases, three times within one; after an outage write them all again at once."""
        while True:
            try:
                async with asyncio.timeout(self._lease / 3):
                    await self._returned.wait()
            except TimeoutError:
                work = (self._leases.renew, self._presence.renew)
            else:
                self._returned.clear()
                work = (self._leases.restore, self._presence.restore)
            for each in work:
                try:
                    await each()
                except Exception:
                    log.exception("Renewing leases failed; it is tried again in %g s", self._lease / 3)

    async def close(self) -> None:
        """See ``Broker``."""
        if not self._running or self._renewing is None:
            return
        renewing, self._renewing = self._renewing, None
        try:
            renewing.cancel()
            await asyncio.wait([renewing])
            # What was put off while Redis was away may be done only now; then those who left are still to be announced.
            await self._presence.close()
            await self._leases.close()
            await self._outbox.finish(_CLOSING)
        finally:  # also of one that is cut off: nobody could close it again
            self._running = False
            await self._stop()

    async def _stop(self) -> None:
        await self._feeds.close()
        await self._router.close()

    def _settled_in(self) -> float:
        """In how many seconds the nodes will have said what they hold, after Redis may have lost it; 0 or less: now."""
        return self._router.anew_since + ANEW - asyncio.get_running_loop().time()

    def _check(self) -> None:
        if not self._running:
            raise Unavailable(_NOT_RUNNING)

    async def ping(self) -> None:
        """See ``Broker``: every server is asked, and a message goes through Redis and back to this node."""
        self._check()
        if troubles := [*self._router.troubles(), *self._feeds.subscriptions.troubles()]:
            raise Unavailable(" ".join(troubles))
        await self._router.everywhere("PING")
        await self._feeds.subscriptions.echo()

    def metrics(self) -> Sequence[BrokerMetric]:
        """See ``Broker``."""
        if not self._running:
            return ()
        router, feeds = self._router, self._feeds
        is_up = not router.troubles() and not feeds.subscriptions.troubles()
        return (
            BrokerMetric("redis_up", "1 while every server of Redis is connected, else 0.", int(is_up)),
            BrokerMetric("redis_waiting", "Calls that wait for a server of Redis that is away.", router.waiting),
            BrokerMetric(
                "redis_buffer_bytes", "Bytes of events sent or to be sent to Redis, unacknowledged.", router.held
            ),
            BrokerMetric(
                "redis_repaired_events", "Events fetched since their announcement got lost.", feeds.repaired, True
            ),
            BrokerMetric("redis_resyncs", "Rooms of which Redis had lost events, told to resync.", feeds.resyncs, True),
        )

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """See ``Broker``."""
        if not self._running:
            raise Unavailable(_NOT_RUNNING)
        return await self._outbox.publish(room, payload, key)

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """See ``Broker``. In a Cluster "or none" holds for each room by itself: no step spans two servers."""
        self._check()
        return await self._outbox.publish_many(publications)

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check()
        await self._feeds.subscriptions.add(rooms)

    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check()
        self._feeds.subscriptions.remove(rooms)

    async def history(self, room: str, since: str | None = None, limit: int | None = None) -> History:
        """See ``Broker``."""
        self._check()
        return await self._feeds.history(room, since, limit)

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker``."""
        self._check()
        if self._settled_in() > 0:
            raise Unavailable("Redis is back, and the nodes are telling it who is connected; try again soon.")
        return await self._leases.admit(user_id, connection, limit)

    async def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker``."""
        self._check()
        await self._leases.release(user_id, connection)

    async def connections(self, user_id: UserId) -> int:
        """See ``Broker``."""
        self._check()
        return await self._leases.count(user_id)

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check()
        return await self._presence.enter(room, user_id, username, connection)

    async def leave(self, room: str, user_id: UserId, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check()
        return await self._presence.leave(room, user_id, connection)

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        self._check()
        return await self._presence.members(room)

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check()
        return await self._presence.rooms()

    async def claim(self, key: str, lapse: float) -> bytes | bool:
        """See ``Broker``."""
        self._check()
        known = await self._router.run(CLAIM, (self._keys.claim(key),), (int(lapse * 1000),))
        if known == 1:
            return True
        answer: bytes = known
        return answer[1:] if answer else False

    async def settle(self, key: str, answer: bytes | None) -> None:
        """See ``Broker``; waits for a Redis that is away, as a publish does."""
        self._check()
        name = self._keys.claim(key)
        if answer is None:
            await self._router.call(name, "DEL", name, patience=self._wait)
        else:
            await self._router.call(name, "SET", name, b"=" + answer, "PX", int(KEY_TTL * 1000), patience=self._wait)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """See ``Broker``."""
        self._check()
        name = self._keys.kept(key)
        await self._router.call(name, "SET", name, value, "PX", max(int(ttl * 1000), 1))

    async def take(self, key: str) -> bytes | None:
        """See ``Broker``."""
        self._check()
        name = self._keys.kept(key)
        value: bytes | None = await self._router.call(name, "GETDEL", name)
        return value

    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """See ``Broker``; waits for a Redis that is away, as a publish does."""
        self._check()
        key, args = self._keys.revoked(user_id), (repr(before), int(ttl * 1000))
        await self._router.run(REVOKE, (key,), args, patience=self._wait, size=len(key))

    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker``; waits for a Redis that is away, as a publish does."""
        self._check()
        key = self._keys.revoked_token(user_id, token_id)
        await self._router.call(key, "SET", key, b"1", "PX", int(ttl * 1000), patience=self._wait)

    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker``."""
        self._check()
        key = self._keys.revoked(user_id)
        token = () if token_id is None else (self._keys.revoked_token(user_id, token_id),)
        before, *one = await self._router.call(key, "MGET", key, *token)
        return (before is not None and (issued is None or issued < float(before))) or one not in ([], [None])

    async def signal(self, message: bytes) -> None:
        """See ``Broker``; signals have an order, ids and a history as rooms do, so that none is lost unseen."""
        self._check()
        await self._outbox.publish(SIGNALS, message, None)
