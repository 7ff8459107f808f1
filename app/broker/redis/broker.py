"""The broker for several nodes: ``Broker`` on Redis or Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ...errors import BrokerUnavailable
from ..base import (
    DEFAULT_ANNOUNCEMENTS,
    KEY_TTL,
    MAX_PAGE_BYTES,
    Announcements,
    Broker,
    BrokerMetric,
    History,
    Listener,
    Member,
    PresenceChange,
    Publication,
    UserId,
)
from .connection import RedisConnection
from .handshake import open_connection
from .keys import SIGNALS, Keys
from .leases import Leases
from .options import GRACE_PERIOD, RedisOptions
from .positions import RecentPositions
from .presence import Presence
from .publisher import PUBLISH, Publisher
from .receiver import Receiver
from .reconnect import OnLost
from .refusal_monitor import RefusalMonitor
from .router import Router
from .scripts import Script
from .stream import HISTORY, ROOM_STATE
from .tls import create_context
from .topology import Address, create_topology
from .urls import Target

log = logging.getLogger("roomcast.redis")

CLAIM: Final = Script("claim")
REVOKE: Final = Script("revoke")
#: Every connection loads these scripts, because it may send them before it receives a reply.
_PRELOADED: Final = (PUBLISH, HISTORY, ROOM_STATE, CLAIM, REVOKE)

#: How long ``close`` waits for events that are being published, in seconds.
_PUBLISH_TIMEOUT: Final = 1.0

_NOT_RUNNING = "The broker on Redis is not running: it was closed, or not started yet."


class _SignalRouter:
    """Passes everything to the node's listener, and events of the room ``SIGNALS`` as signals."""

    def __init__(self, listener: Listener) -> None:
        self._listener: Final = listener
        self.on_presence: Final = listener.on_presence
        self.on_signal: Final = listener.on_signal
        self.wait_for_members: Final = listener.wait_for_members
        self.on_signals_lost: Final = listener.on_signals_lost

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """See ``Listener``."""
        if room == SIGNALS:
            self._listener.on_signal(payload)
        else:
            self._listener.on_event(room, id, payload)

    def on_resync(self, room: str, last_id: str) -> None:
        """See ``Listener``."""
        if room == SIGNALS:
            self._listener.on_signals_lost()
        else:
            self._listener.on_resync(room, last_id)


class RedisBroker(Broker):
    """The broker on the Redis at ``target``.

    It owns the router with one connection per server for commands, the receiver with one per server for subscriptions,
    and a task that renews the leases.
    """

    def __init__(self, target: Target, options: RedisOptions | None = None) -> None:
        self._target: Final = target
        self._options: Final = options or RedisOptions()
        self._keys: Final = Keys(self._options.prefix)
        self._tls: ssl.SSLContext | None = None
        #: This node's name in Redis.
        self.node: Final = secrets.token_hex(5)
        self._is_running = False
        self._renewer: asyncio.Task[None] | None = None
        self._renew_soon: Final = asyncio.Event()
        self._has_server_returned = False

    # Lifecycle.

    async def start(self, listener: Listener, announcements: Announcements = DEFAULT_ANNOUNCEMENTS) -> None:
        """See ``Broker``.

        Raises ``Unavailable`` if Redis cannot be reached, or refuses commands, for longer than the option ``wait``.
        Raises ``SettingsError`` if the certificates cannot be used, or the user of the URL lacks rights.
        """
        options, keys = self._options, self._keys
        self.reload_certificates()
        if self._target.tls is not None and not self._target.tls.verify:
            log.warning("REDIS_TLS_VERIFY is false: others in the network can pose as Redis, and read all data")
        # Leases are renewed after a third of their time. So the first ones expire two thirds of a lease after a server
        # fell silent, and the node detects the silence ``timeout`` seconds after its beginning.
        expiry = max(options.lease * 2 / 3 - options.timeout, 0)
        topology = create_topology(self._target, options.timeout, lambda: self._tls)
        self._router = Router(topology, self._open_connection, options.buffer, expiry)
        self._refusals = RefusalMonitor(self._router, keys, self._target, self._on_refusal_end)
        signals = _SignalRouter(listener)
        positions = RecentPositions()
        self._receiver = Receiver(self._router, keys, options, self._open_connection, signals, self.node, positions)
        self._publisher = Publisher(self._router, keys, options, self.node, positions)
        self._leases = Leases(self._router, keys, self.node, options.lease)
        publish = "SPUBLISH" if topology.is_cluster else "PUBLISH"
        self._presence = Presence(self._router, keys, self.node, options.lease, announcements, publish)
        try:
            await self._router.start(options.wait)
            await self._refusals.start(options.wait)
            await self._receiver.start(options.wait)
            await self._receiver.subscriptions.add([SIGNALS])
            # Clients are not admitted before this returns, so waiting here is no worse than refusing them.
            await asyncio.sleep(self._grace_left())
        except BaseException:
            await self._stop()
            raise
        self._is_running = True
        self._router.on_server_return.extend((self._presence.on_server_return, self._on_server_return))
        self._router.on_new_generation.append(self._presence.on_new_generation)
        self._renewer = asyncio.create_task(self._renew_leases(), name="roomcast redis leases")

    def reload_certificates(self) -> bool:
        """See ``Broker``."""
        if self._target.tls is None:
            return False
        self._tls = create_context(self._target.tls)
        return True

    async def _open_connection(
        self, address: Address | None, on_push: Callable[[list[Any]], None], on_lost: OnLost
    ) -> RedisConnection:
        if address is None:
            raise BrokerUnavailable("no sentinel has named its primary yet")
        target = self._target
        credentials = (target.username, target.password)
        timeout = self._options.timeout
        return await open_connection(address, credentials, target.db, self._tls, on_push, on_lost, _PRELOADED, timeout)

    async def _renew_leases(self) -> None:
        """Renew this node's leases and presence every third of a lease, and write all again after an outage."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.lease / 3):
                    await self._renew_soon.wait()
            self._renew_soon.clear()
            if self._has_server_returned:
                self._has_server_returned = False
                renewals = (self._leases.restore, self._presence.restore)
            else:
                renewals = (self._leases.renew, self._presence.renew)
            for renew in renewals:
                try:
                    await renew()
                except Exception:
                    log.exception("Renewing leases failed; it is tried again in %g s", self._options.lease / 3)

    def _on_server_return(self) -> None:
        self._has_server_returned = True
        self._renew_soon.set()

    def _on_refusal_end(self) -> None:
        """Redis accepts commands again: write what it has refused to write."""
        self._receiver.repair.on_server_return()
        self._renew_soon.set()

    async def close(self) -> None:
        """See ``Broker``."""
        if not self._is_running or self._renewer is None:
            return
        renewer, self._renewer = self._renewer, None
        try:
            renewer.cancel()
            await asyncio.wait([renewer])
            await self._presence.close()
            await self._leases.close()
            await self._publisher.finish(_PUBLISH_TIMEOUT)
        finally:  # also if this is cancelled, because a second call would do nothing
            self._is_running = False
            await self._stop()

    async def _stop(self) -> None:
        await self._refusals.close()
        await self._receiver.close()
        await self._router.close()

    def _grace_left(self) -> float:
        """Return how many seconds of the grace period are left; 0 or less if none."""
        return self._router.data_lost_at + GRACE_PERIOD - asyncio.get_running_loop().time()

    def _check_running(self) -> None:
        if not self._is_running:
            raise BrokerUnavailable(_NOT_RUNNING)

    async def ping(self) -> None:
        """See ``Broker``. Checks that every server accepts commands, and sends a message through Redis to itself."""
        self._check_running()
        if problems := [*self._router.problems(), *self._receiver.subscriptions.problems()]:
            raise BrokerUnavailable(" ".join(problems))
        await self._refusals.check()
        await self._receiver.subscriptions.echo()

    def metrics(self) -> Sequence[BrokerMetric]:
        """See ``Broker``."""
        if not self._is_running:
            return ()
        router, receiver = self._router, self._receiver
        is_up = not router.problems() and not receiver.subscriptions.problems()
        return (
            BrokerMetric("redis_up", "1 while every Redis server is connected, else 0.", int(is_up)),
            BrokerMetric(
                "redis_writable",
                "1 while Redis accepts all commands of this node, else 0: no memory, a disk error, missing rights.",
                int(not self._refusals.problems),
            ),
            BrokerMetric(
                "redis_refused_commands",
                "Commands that Redis refused because of its state or the rights of its user.",
                router.refusals,
                True,
            ),
            BrokerMetric("redis_waiting", "Calls that wait for an unreachable Redis server.", router.pending),
            BrokerMetric("redis_buffer_bytes", "Bytes of events that Redis has not acknowledged yet.", router.buffered),
            BrokerMetric(
                "redis_repaired_events",
                "Events that were fetched because their announcement was lost.",
                receiver.repair.repaired,
                True,
            ),
            BrokerMetric("redis_resyncs", "Rooms that lost events in Redis and got a resync.", receiver.resyncs, True),
        )

    # Events.

    async def publish(self, room: str, payload: bytes, key: str | None = None) -> str:
        """See ``Broker``."""
        if not self._is_running:
            raise BrokerUnavailable(_NOT_RUNNING)
        return await self._publisher.publish(room, payload, key)

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """See ``Broker``. In a Cluster, "or none" holds for each room separately: no script spans two servers."""
        self._check_running()
        return await self._publisher.publish_many(publications)

    async def subscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check_running()
        await self._receiver.subscriptions.add(rooms)

    async def unsubscribe(self, rooms: Iterable[str]) -> None:
        """See ``Broker``."""
        self._check_running()
        self._receiver.subscriptions.remove(rooms)

    async def history(
        self,
        room: str,
        since: str | None = None,
        limit: int | None = None,
        *,
        before: str | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> History:
        """See ``Broker``."""
        self._check_running()
        return await self._receiver.history.read(room, since, limit, before, max_bytes)

    async def signal(self, message: bytes) -> None:
        """See ``Broker``. Signals are events of a room, so that lost ones are fetched or reported."""
        self._check_running()
        await self._publisher.publish(SIGNALS, message, None)

    # Leases.

    async def admit(self, user_id: UserId, connection: int, limit: int) -> bool:
        """See ``Broker``. Raises ``Unavailable`` in the grace period as well."""
        self._check_running()
        if self._grace_left() > 0:
            raise BrokerUnavailable("Redis is back, and the nodes are writing their leases again; try again soon.")
        return await self._leases.admit(user_id, connection, limit)

    async def release(self, user_id: UserId, connection: int) -> None:
        """See ``Broker``."""
        self._check_running()
        await self._leases.release(user_id, connection)

    async def connections(self, user_id: UserId) -> int:
        """See ``Broker``."""
        self._check_running()
        return await self._leases.count(user_id)

    # Presence.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.enter(room, user_id, username, connection)

    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.leave(room, user_id, connection, is_lost=is_lost)

    async def announce_due(self) -> None:
        """See ``Broker``."""
        if self._is_running:
            self._presence.announce_due()

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.members(room)

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.rooms()

    # Claims and one-time values.

    async def claim(self, key: str, ttl: float) -> bytes | bool:
        """See ``Broker``."""
        self._check_running()
        known = await self._router.run(CLAIM, (self._keys.claim(key),), (int(ttl * 1000),))
        if known == 1:
            return True
        answer: bytes = known
        return answer[1:] if answer else False

    async def settle(self, key: str, answer: bytes | None) -> None:
        """See ``Broker``. Waits for an unreachable server, as a publish does."""
        self._check_running()
        name, wait = self._keys.claim(key), self._options.wait
        if answer is None:
            await self._router.call(name, "DEL", name, wait=wait)
        else:
            # The prefix distinguishes an empty answer from a pending claim.
            await self._router.call(name, "SET", name, b"=" + answer, "PX", int(KEY_TTL * 1000), wait=wait)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """See ``Broker``."""
        self._check_running()
        name = self._keys.value(key)
        await self._router.call(name, "SET", name, value, "PX", max(int(ttl * 1000), 1))

    async def take(self, key: str) -> bytes | None:
        """See ``Broker``."""
        self._check_running()
        name = self._keys.value(key)
        value: bytes | None = await self._router.call(name, "GETDEL", name)
        return value

    # Revocations.

    async def revoke_all(self, user_id: UserId, before: float, ttl: float) -> None:
        """See ``Broker``. Waits for an unreachable server, as a publish does."""
        self._check_running()
        key, args = self._keys.revoked(user_id), (repr(before), int(ttl * 1000))
        await self._router.run(REVOKE, (key,), args, wait=self._options.wait, size=len(key))

    async def revoke_one(self, user_id: UserId, token_id: str, ttl: float) -> None:
        """See ``Broker``. Waits for an unreachable server, as a publish does."""
        self._check_running()
        key = self._keys.revoked_token(user_id, token_id)
        await self._router.call(key, "SET", key, b"1", "PX", int(ttl * 1000), wait=self._options.wait)

    async def is_revoked(self, user_id: UserId, issued: float | None, token_id: str | None) -> bool:
        """See ``Broker``."""
        self._check_running()
        key = self._keys.revoked(user_id)
        token = () if token_id is None else (self._keys.revoked_token(user_id, token_id),)
        before, *one = await self._router.call(key, "MGET", key, *token)
        return (before is not None and (issued is None or issued < float(before))) or one not in ([], [None])
