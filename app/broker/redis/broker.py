"""The broker for several nodes: ``Broker`` on Redis or Valkey."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ...backoff import wait_at_most
from ...errors import BrokerUnavailable
from ..base import (
    DEFAULT_ANNOUNCEMENTS,
    MAX_MEMBERS_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGE_MEMBERS,
    Announcements,
    BrokerMetric,
    History,
    Listener,
    Member,
    MemberPage,
    PresenceChange,
    Publication,
    UserId,
    UserStatus,
)
from .broadcaster import Broadcaster
from .connection import RedisConnection
from .followed import FollowedRooms
from .handshake import open_connection
from .keys import SIGNALS
from .leases import Leases
from .options import GRACE_PERIOD, RedisOptions
from .positions import RecentPositions
from .presence import Presence, parse_cursor
from .presence_store import UPDATES, PresenceStore
from .publisher import PUBLISH, Publisher
from .questions import Questions
from .read_marks import RedisMarks
from .receiver import Receiver
from .reconnect import OnLost
from .refusal_monitor import RefusalMonitor
from .router import Router
from .signal_router import SignalRouter
from .stream import HISTORY, ROOM_STATE
from .tls import create_context
from .topology import Address, create_topology
from .urls import Target
from .values import CLAIM, REVOKE, RedisValues

log = logging.getLogger("roomcast.redis")

#: Every connection loads these scripts, because it may send them before it receives a reply.
_PRELOADED: Final = (PUBLISH, HISTORY, ROOM_STATE, CLAIM, REVOKE, UPDATES)

#: How long ``close`` waits for events that are being published, in seconds.
_PUBLISH_TIMEOUT: Final = 1.0

_NOT_RUNNING = "The broker on Redis is not running: it was closed, or not started yet."


class RedisBroker(RedisValues):
    """The broker on the Redis at ``target``.

    It owns the router with one connection per server for commands, the receiver with one per server for subscriptions,
    and a task that renews the leases.
    """

    def __init__(self, target: Target, options: RedisOptions | None = None) -> None:
        self._target: Final = target
        super().__init__(options or RedisOptions())
        self._tls: ssl.SSLContext | None = None
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
        signals = SignalRouter(listener)
        positions = RecentPositions()
        self._questions = Questions(self._router, keys, self.node, listener.on_question)
        on_told = self._questions.received
        self._receiver = Receiver(
            self._router, keys, options, self._open_connection, signals, self.node, positions, on_told
        )
        self.marks = self._marks = RedisMarks(self._router, keys, options, self._receiver.subscriptions)
        types = announcements.followed_types
        self._followed = FollowedRooms(self._router, keys, listener, options.lease, options.wait, types)
        on_message = self._marks.on_message
        self._publisher = Publisher(self._router, keys, options, self.node, positions, on_message, self._followed)
        grace = announcements.grace
        self._leases = Leases(self._router, keys, self.node, options.lease, options.last_seen_ttl, grace)
        publish = "SPUBLISH" if topology.is_cluster else "PUBLISH"
        self._broadcaster = Broadcaster(self._router, keys, self.node, publish)
        self._presence = Presence(
            PresenceStore(self._router, keys, self.node, options.lease, announcements, publish, self._followed)
        )
        self._receiver.on_status = self._presence.on_status
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
            await wait_at_most(self._renew_soon, self._options.lease / 3)
            self._renew_soon.clear()
            if self._has_server_returned:
                self._has_server_returned = False
                renewals = (self._leases.restore, self._presence.restore, self._followed.renew)
            else:
                renewals = (self._leases.renew, self._presence.renew, self._followed.renew)
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
            await self._marks.close()
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
            BrokerMetric(
                "redis_dropped_broadcasts",
                "Live events that were dropped because Redis was too slow, or unreachable.",
                self._broadcaster.dropped,
                True,
            ),
            BrokerMetric("redis_resyncs", "Rooms that lost events in Redis and got a resync.", receiver.resyncs, True),
        )

    # Events.

    async def publish(
        self,
        room: str,
        payload: bytes,
        key: str | None = None,
        is_message: bool = False,
        author: UserId | None = None,
        is_followed: bool = False,
    ) -> str:
        """See ``Broker``."""
        if not self._is_running:
            raise BrokerUnavailable(_NOT_RUNNING)
        return await self._publisher.publish(room, payload, key, is_message, author, is_followed)

    async def publish_many(self, publications: Sequence[Publication]) -> list[str]:
        """See ``Broker``. In a Cluster, "or none" holds for each room separately: no script spans two servers."""
        self._check_running()
        return await self._publisher.publish_many(publications)

    def broadcast(self, room: str, payload: bytes) -> None:
        """See ``Broker``."""
        self._check_running()
        self._broadcaster.send(room, payload)

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

    async def ask(self, questions: Mapping[str, bytes], wait: float) -> dict[str, bytes]:
        """See ``Broker``."""
        self._check_running()
        return await self._questions.ask(questions, wait)

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

    async def statuses(self, user_ids: Sequence[UserId]) -> list[UserStatus]:
        """See ``Broker``."""
        self._check_running()
        return await self._leases.statuses(user_ids)

    # Presence.

    async def enter(self, room: str, user_id: UserId, username: str, connection: int) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.enter(room, user_id, username, connection)

    async def leave(self, room: str, user_id: UserId, connection: int, *, is_lost: bool = False) -> PresenceChange:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.leave(room, user_id, connection, is_lost=is_lost)

    async def set_status(self, room: str, user_id: UserId, status: str) -> None:
        """See ``Broker``."""
        self._check_running()
        await self._presence.set_status(room, user_id, status)

    async def announce_due(self) -> None:
        """See ``Broker``."""
        if self._is_running:
            self._presence.announce_due()
            self._followed.sweep(self._presence.sweep)

    async def members(self, room: str) -> list[Member]:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.members(room)

    async def list_members(
        self,
        room: str,
        after: str | None = None,
        limit: int = MAX_PAGE_MEMBERS,
        *,
        max_bytes: int = MAX_MEMBERS_BYTES,
        user_id: UserId | None = None,
    ) -> MemberPage:
        """See ``Broker``. The cursor is the number of arrival of the last user on the page."""
        self._check_running()
        number = parse_cursor(after)
        page, now = await self._presence.list_members(room, number, limit, max_bytes, user_id)
        self._receiver.on_listed(room, now)
        return page

    async def rooms(self) -> dict[str, int]:
        """See ``Broker``."""
        self._check_running()
        return await self._presence.rooms()
