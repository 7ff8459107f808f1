"""Which server stores a key: the single server, the primary that Sentinel names, or one of a Cluster."""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoPermissionError, RedisError

from ...errors import BrokerUnavailable
from .urls import Target

log = logging.getLogger("roomcast.redis")

_T = TypeVar("_T")
#: Returns the current TLS context, or None without TLS.
GetContext = Callable[[], ssl.SSLContext | None]

#: The address of a server: host and port, or the path of a Unix socket.
Address = tuple[str, int] | str
#: Identifies a server, even if its address changes: its address, or the name of Sentinel's service.
ServerName = tuple[str, int] | str


class Topology(ABC):
    """The servers that store the keys. ``name`` returns the server of a key, ``address`` its current address."""

    #: Counts up whenever keys moved from one server to another.
    version = 0
    #: True if the keys are spread over several servers. No call may then use keys of two hash tags.
    is_cluster = False

    @abstractmethod
    def names(self) -> tuple[ServerName, ...]:
        """Return all servers that store keys now."""

    @abstractmethod
    def name(self, key: bytes) -> ServerName:
        """Return the server of ``key``; raise ``Unavailable`` if no server has its slot."""

    def address(self, name: ServerName) -> Address | None:
        """Return the address of the server ``name``, or None if it is not known yet."""
        return name

    async def refresh(self) -> None:  # noqa: B027  # a single server does not move
        """Read the current servers; raise ``Unavailable`` if no server or sentinel answers."""


def create_topology(target: Target, timeout: float, tls: GetContext = lambda: None) -> Topology:
    """Return the topology of ``target``. Its requests time out after ``timeout`` seconds; they use ``tls``."""
    if target.kind == "sentinel":
        return _SentinelTopology(target, timeout, tls)
    if target.kind == "cluster":
        return _ClusterTopology(target, timeout, tls)
    return _SingleServer(target.path or target.addresses[0])


class _SingleServer(Topology):
    def __init__(self, address: Address) -> None:
        self._address: Final = address

    def names(self) -> tuple[ServerName, ...]:
        return (self._address,)

    def name(self, key: bytes) -> ServerName:
        return self._address


class _SentinelTopology(Topology):
    """One server, identified by the name of its service. The sentinels return the address of the primary."""

    def __init__(self, target: Target, timeout: float, tls: GetContext) -> None:
        self._service: Final = target.service or ""
        self._timeout: Final = timeout
        self._target: Final = target
        self._tls: Final = tls
        self._sentinels: Final[dict[tuple[str, int], None]] = dict.fromkeys(target.addresses)
        self._address: Address | None = None

    def names(self) -> tuple[ServerName, ...]:
        return (self._service,)

    def name(self, key: bytes) -> ServerName:
        return self._service

    def address(self, name: ServerName) -> Address | None:
        return self._address

    async def refresh(self) -> None:
        """Ask one sentinel after the other until one names the primary."""
        reasons = []
        for sentinel in [*self._sentinels]:
            try:
                host, port = await _shielded(self._ask(sentinel))
            except (RedisError, OSError, TimeoutError) as error:
                reason = _reason(error, self._target.sentinel_username, "sentinel|masters")
                reasons.append(f"{sentinel[0]}:{sentinel[1]}: {reason}")
                self._sentinels[sentinel] = self._sentinels.pop(sentinel)  # ask the others first the next time
                continue
            address = (str(host), int(port))
            if self._address not in (None, address):
                log.info("Sentinel names another primary of %s: %s:%d", self._service, *address)
            self._address = address
            return
        raise BrokerUnavailable(f"no sentinel names a primary of {self._service!r} ({'; '.join(reasons)})")

    async def _ask(self, address: tuple[str, int]) -> tuple[Any, Any]:
        credentials = (self._target.sentinel_username, self._target.sentinel_password)
        client = _client(address, credentials, self._tls(), self._timeout)
        sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
        sentinel.sentinels = [client]
        async with asyncio.timeout(self._timeout), client:
            primary: tuple[Any, Any] = await sentinel.discover_master(self._service)
            return primary


class _ClusterTopology(Topology):
    """16,384 slots on several primaries. Every server returns the map of slots."""

    is_cluster = True

    def __init__(self, target: Target, timeout: float, tls: GetContext) -> None:
        self._target: Final = target
        self._timeout: Final = timeout
        self._tls: Final = tls
        self._slots: list[ServerName | None] = [None] * 16384
        self._names: tuple[ServerName, ...] = ()
        self._known: dict[tuple[str, int], None] = dict.fromkeys(target.addresses)

    def names(self) -> tuple[ServerName, ...]:
        return self._names

    def name(self, key: bytes) -> ServerName:
        slot = key_slot(key)
        name = self._slots[slot]
        if name is None:
            raise BrokerUnavailable(f"Slot {slot} of the Redis Cluster is on no server now.")
        return name

    async def refresh(self) -> None:
        """Request the map from one server after the other until one answers."""
        reasons = []
        for host, port in [*self._known]:
            try:
                slots = await _shielded(self._request_slots(host, port))
            except (RedisError, OSError, TimeoutError) as error:
                reasons.append(f"{host}:{port}: {_reason(error, self._target.username, 'cluster|slots')}")
                self._known[host, port] = self._known.pop((host, port))  # ask the others first the next time
                continue
            self._update(slots, host)
            return
        raise BrokerUnavailable(f"no server of the Redis Cluster returns the slots ({'; '.join(reasons)})")

    async def _request_slots(self, host: str, port: int) -> list[Any]:
        credentials = (self._target.username, self._target.password)
        client = _client((host, port), credentials, self._tls(), self._timeout)
        async with asyncio.timeout(self._timeout), client:
            slots: list[Any] = await client.execute_command("CLUSTER SLOTS")
            return slots

    def _update(self, slots: list[Any], source: str) -> None:
        """Store the map: for each range its first and last slot, and its servers, the primary first.

        A server may leave its own host empty, which stands for ``source``, the host that returned the map.
        """
        found: list[ServerName | None] = [None] * 16384
        for first, last, *servers in slots:
            names = [((host or b"").decode() or source, int(port)) for host, port, *_ in servers]
            for name in names:
                self._known.setdefault(name)
            found[first : last + 1] = [names[0]] * (last + 1 - first)
        if found != self._slots:
            self.version += 1
        self._slots = found
        self._names = tuple(dict.fromkeys(name for name in found if name is not None))


def _reason(error: Exception, user: str | None, command: str) -> str:
    """Return why a server did not answer ``command``, given as in ACL rules."""
    if isinstance(error, NoPermissionError):
        user = user or "default"
        return f"it does not allow its user {user} to run {command}; grant it with ACL SETUSER {user} +{command}"
    return str(error) or type(error).__name__


async def _shielded(work: Coroutine[Any, Any, _T]) -> _T:
    """Await ``work`` without cancelling it. If the caller is cancelled, wait for the work to end, then raise that.

    redis-py sends with asyncio.wait_for, which can lose a cancellation before Python 3.12 (gh-86296): a node that was
    stopped at that moment never ended. Also, redis-py leaves a connection open if it is cancelled while it connects.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # mark it as retrieved
        raise


class _TlsConnection(redis.asyncio.SSLConnection):
    """A connection of redis-py with a given context. Its own contexts trust the system besides REDIS_CA."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


def _client(
    address: tuple[str, int], credentials: tuple[str | None, str | None], tls: ssl.SSLContext | None, timeout: float
) -> Any:
    options: dict[str, Any] = {"host": address[0], "port": address[1]}
    options |= {"username": credentials[0], "password": credentials[1]}
    options |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    # By default redis-py retries three times, with pauses. If a server hangs, that would delay the request to the next.
    options["retry"] = Retry(NoBackoff(), 0)
    if tls is not None:
        options |= {"connection_class": _TlsConnection, "context": tls}
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))
