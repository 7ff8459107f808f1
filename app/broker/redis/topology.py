"""Which server holds a key: the one there is, the one that Sentinel names, or those of a Cluster."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from ...errors import Unavailable
from .urls import Target

log = logging.getLogger("roomcast.redis")

_T = TypeVar("_T")

#: Where a server is: host and port, or the path of a Unix socket.
Address = tuple[str, int] | str
#: What stands for a server, also when it moves: its address, or the name of Sentinel's service.
Name = tuple[str, int] | str


class Topology(ABC):
    """The servers that the keys are on. ``name`` of a key's server; ``address`` of a name, asked at each connect."""

    #: Counts up whenever keys moved from one server to another.
    version = 0
    #: Whether keys are spread over several servers: no call may then touch keys of two hash tags.
    is_cluster = False

    @abstractmethod
    def names(self) -> tuple[Name, ...]:
        """Every server that holds keys now."""

    @abstractmethod
    def name(self, key: bytes) -> Name:
        """The server of ``key``; raise ``Unavailable`` if no server holds its slot."""

    def address(self, name: Name) -> Address | None:
        """Where the server ``name`` is; None if that is not known yet."""
        return name

    async def refresh(self) -> None:  # noqa: B027  # one server does not move
        """Learn where things are now; raise ``Unavailable`` if nobody tells."""


def create_topology(target: Target, timeout: float) -> Topology:
    """Return the ``Servers`` that ``target`` speaks of; questions to them time out after ``timeout`` seconds."""
    if target.kind == "sentinel":
        return _BySentinel(target, timeout)
    if target.kind == "cluster":
        return _Cluster(target, timeout)
    return _Single(target.path or target.addresses[0])


class _Single(Topology):
    def __init__(self, address: Address) -> None:
        self._address: Final = address

    def names(self) -> tuple[Name, ...]:
        return (self._address,)

    def name(self, key: bytes) -> Name:
        return self._address


class _BySentinel(Topology):
    """One server under the name of its service; which it is now, the sentinels say."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._service: Final = target.service or ""
        self._timeout: Final = timeout
        self._target: Final = target
        self._address: Address | None = None

    def names(self) -> tuple[Name, ...]:
        return (self._service,)

    def name(self, key: bytes) -> Name:
        return self._service

    def address(self, name: Name) -> Address | None:
        return self._address

    async def refresh(self) -> None:
        target = self._target
        options = {
            **_options(target, self._timeout),
            "username": target.sentinel_username,
            "password": target.sentinel_password,
        }
        sentinel: Any = Sentinel(list(target.addresses), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        try:
            host, port = await _to_its_end(self._discover(sentinel))
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(f"no sentinel names a primary of {self._service!r} ({error})") from error
        address = (str(host), int(port))
        if self._address not in (None, address):
            log.info("Sentinel names another primary of %s: %s:%d", self._service, *address)
        self._address = address

    async def _discover(self, sentinel: Any) -> tuple[Any, Any]:
        try:
            async with asyncio.timeout(self._timeout * len(sentinel.sentinels)):
                address: tuple[Any, Any] = await sentinel.discover_master(self._service)
                return address
        finally:
            await asyncio.gather(*[one.aclose() for one in sentinel.sentinels], return_exceptions=True)


class _Cluster(Topology):
    """Sixteen thousand slots on several primaries; any of them knows the map."""

    is_cluster = True

    def __init__(self, target: Target, timeout: float) -> None:
        self._target: Final = target
        self._timeout: Final = timeout
        self._slots: list[Name | None] = [None] * 16384
        self._names: tuple[Name, ...] = ()
        self._seen: dict[tuple[str, int], None] = dict.fromkeys(target.addresses)

    def names(self) -> tuple[Name, ...]:
        return self._names

    def name(self, key: bytes) -> Name:
        slot = key_slot(key)
        name = self._slots[slot]
        if name is None:
            raise Unavailable(f"Slot {slot} of the Redis Cluster is on no server now.")
        return name

    async def refresh(self) -> None:
        """Ask the servers for the map, one after the other until one answers."""
        reasons = []
        for host, port in [*self._seen]:
            try:
                slots = await _to_its_end(self._ask(host, port))
            except (RedisError, OSError, TimeoutError) as error:
                reasons.append(f"{host}:{port}: {error or type(error).__name__}")
                self._seen[host, port] = self._seen.pop((host, port))  # the next time, others first
                continue
            self._learn(slots, host)
            return
        raise Unavailable(f"no server of the Redis Cluster tells its slots ({'; '.join(reasons)})")

    async def _ask(self, host: str, port: int) -> list[Any]:
        target = self._target
        client: Any = redis.asyncio.Redis(
            host=host,
            port=port,
            username=target.username,
            password=target.password,
            single_connection_client=True,
            **_options(target, self._timeout),
        )
        async with asyncio.timeout(self._timeout), client:
            slots: list[Any] = await client.execute_command("CLUSTER SLOTS")
            return slots

    def _learn(self, slots: list[Any], asked: str) -> None:
        """Take the map: of each range of slots the first, the last, and its servers, the primary first."""
        found: list[Name | None] = [None] * 16384
        for first, last, *servers in slots:
            names = [((host or b"").decode() or asked, int(port)) for host, port, *_ in servers]
            for name in names:
                self._seen.setdefault(name)
            found[first : last + 1] = [names[0]] * (last + 1 - first)
        if found != self._slots:
            self.version += 1
        self._slots = found
        self._names = tuple(dict.fromkeys(name for name in found if name is not None))


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Await ``work``, which must not be cancelled; whoever awaits this can be, and then is when the work has ended.

    redis-py sends through asyncio.wait_for, which may forget a cancellation before Python 3.12 (gh-86296 of CPython): a
    node that was stopped at that moment went on for ever. And cancelled as it connects it leaves the connection open.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # of which nobody wants to know now
        raise


def _options(target: Target, timeout: float) -> dict[str, Any]:
    # Of one that hangs, redis-py would ask again three times, with pauses, before the next is asked.
    once = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": once}
    if target.tls:
        options |= {"ssl": True, "ssl_ca_certs": target.ca}
    return options
