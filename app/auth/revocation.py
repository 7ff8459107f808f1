"""Tokens that count no longer before their time: refused at every door, and their connections closed on every node."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ..broker.base import Broker, UserId
from ..errors import AuthenticationFailed
from .identity import Identity


class Revocations:
    """What ``broker`` knows of revoked tokens, for one node; each is remembered for ``ttl`` seconds.

    A revocation is kept first and told to all nodes then. So who is let in by an answer from before it was kept hears
    of it afterwards, and is closed; or heard of it while waiting for that answer, and has to ask again.
    """

    def __init__(self, broker: Broker, ttl: float) -> None:
        self._broker: Final = broker
        self._ttl: Final = ttl
        #: How many this node has been told of.
        self._heard = 0

    async def check(self, identity: Identity, known: int = -1) -> int:
        """Raise ``AuthenticationFailed`` if the token of ``identity`` was revoked, ``Unavailable`` if nobody can tell.

        The result stands for what is known now. Given as ``known`` to a later check of the same token, that one asks,
        and waits, only if this node has heard of a revocation meanwhile.
        """
        while known != self._heard:
            known = self._heard
            if await self._broker.is_revoked(identity.user_id, identity.issued, identity.token_id):
                raise AuthenticationFailed("The token was revoked.")
        return known

    async def revoke_all(self, user_id: UserId, before: float) -> None:
        """Revoke all tokens of a user that were issued before the Unix time ``before``, on every node."""
        await self._broker.revoke_all(user_id, before, self._ttl)
        await self._tell(user_id, before=before)

    async def revoke_one(self, user_id: UserId, token_id: str) -> None:
        """Revoke the token of a user whose ``jti`` is ``token_id``, on every node."""
        await self._broker.revoke_one(user_id, token_id, self._ttl)
        await self._tell(user_id, token_id=token_id)

    async def _tell(self, user_id: UserId, **which: float | str) -> None:
        await self._broker.signal(orjson.dumps({"do": "revoke", "user_id": user_id, **which}))

    def changed(self) -> None:
        """This node was told that a token was revoked."""
        self._heard += 1

    @staticmethod
    def covers(order: dict[str, Any], identity: Identity) -> bool:
        """Whether the token of ``identity`` is among those that ``order``, of its user, revokes."""
        if "token_id" in order:
            return bool(identity.token_id == order["token_id"])
        before: float = order["before"]
        return identity.issued is None or identity.issued < before
