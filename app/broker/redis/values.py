"""The entries in Redis that expire: claims, one-time values and revocations; and the queues."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from typing import Final

from ..base import Broker, UserId
from .keys import Keys
from .options import RedisOptions
from .queue import RedisQueue
from .router import Router
from .scripts import Script

CLAIM: Final = Script("claim")
REVOKE: Final = Script("revoke")
TURN: Final = Script("turn")


class RedisValues(Broker):
    """The part of the broker that keeps these entries and the queues.

    ``node`` is this node's name in Redis.
    """

    _router: Router

    def __init__(self, options: RedisOptions) -> None:
        self._options: Final = options
        self._keys: Final = Keys(options.prefix)
        self.node: Final = secrets.token_hex(5)
        self._queues: Final[dict[str, RedisQueue]] = {}

    @abstractmethod
    def _check_running(self) -> None:
        """Raise ``Unavailable`` if the broker is not running."""

    def queue(self, name: str) -> RedisQueue:
        """See ``Broker``."""
        self._check_running()
        if name not in self._queues:
            self._queues[name] = RedisQueue(name, self._router, self._keys, self.node, self._options)
        return self._queues[name]

    async def take_turn(self, name: str, holder: str, seconds: float) -> float:
        """See ``Broker``."""
        self._check_running()
        wait: int = await self._router.run(TURN, (self._keys.turn(name),), (holder, max(round(seconds * 1000), 1)))
        return wait / 1000

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
            await self._router.call(name, "SET", name, b"=" + answer, "PX", self._options.key_ttl_ms, wait=wait)

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
