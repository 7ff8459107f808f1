"""Revoked tokens: refuse them at admission, and decide which connections a revocation closes."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import orjson

from ..broker.base import Broker, UserId
from ..errors import AuthenticationFailed
from .identity import Identity


class Revocations:
    """Stores revocations in the broker for ``ttl`` seconds, and checks tokens against them.

    A revocation is stored first and then signalled to all nodes. A connection that was admitted by a check before the
    revocation was stored is therefore closed when the signal arrives. If the signal arrives during the check, the check
    is repeated. ``gateway.signals`` receives the signals and closes connections.
    """

    def __init__(self, broker: Broker, ttl: float) -> None:
        self._broker: Final = broker
        self._ttl: Final = ttl
        #: The number of revocations that this node has received.
        self._revision = 0

    async def check(self, identity: Identity, revision: int = -1) -> int:
        """Raise ``AuthenticationFailed`` if the token of ``identity`` was revoked, ``Unavailable`` if that is unknown.

        Return the current revision. Pass it as ``revision`` to the next check of the same token: that check then asks
        the broker only if this node has received a revocation in between.
        """
        while revision != self._revision:
            revision = self._revision
            if await self._broker.is_revoked(identity.user_id, identity.issued, identity.token_id):
                raise AuthenticationFailed("The token was revoked.")
        return revision

    async def revoke_all(self, user_id: UserId, before: float) -> None:
        """Revoke all tokens of a user that were issued before the Unix time ``before``, on every node.

        If ``before`` is not in the past, this includes all tokens in use, also those whose ``iat`` is later because the
        clock of their issuer is ahead.
        """
        await self._broker.revoke_all(user_id, before, self._ttl)
        await self._signal(user_id, before=before, with_all_in_use=before >= time.time())

    async def extend(self, user_id: UserId, issued: float) -> None:
        """Extend the revocation of all tokens of a user to those issued until ``issued``, a Unix time."""
        before = math.nextafter(issued, math.inf)
        await self._broker.revoke_all(user_id, before, self._ttl)
        await self._signal(user_id, before=before, with_all_in_use=False)

    async def revoke_one(self, user_id: UserId, token_id: str) -> None:
        """Revoke the token of a user whose ``jti`` is ``token_id``, on every node."""
        await self._broker.revoke_one(user_id, token_id, self._ttl)
        await self._signal(user_id, token_id=token_id)

    async def _signal(self, user_id: UserId, **tokens: float | str | bool) -> None:
        await self._broker.signal(orjson.dumps({"do": "revoke", "user_id": user_id, **tokens}))

    def invalidate_checks(self) -> None:
        """Record that a token was revoked, or may have been: checks that are running ask the broker again."""
        self._revision += 1

    @staticmethod
    def revokes(signal: dict[str, Any], identity: Identity) -> bool:
        """Return True if ``signal``, which concerns the user of ``identity``, revokes the token of ``identity``."""
        if "token_id" in signal:
            return bool(identity.token_id == signal["token_id"])
        before: float = signal["before"]
        issued = identity.issued
        if issued is None or issued < before:
            return True
        # A token in use was not issued in the future. A new token may have ``before`` itself as its ``iat``.
        return bool(signal.get("with_all_in_use")) and issued > max(before, time.time())
