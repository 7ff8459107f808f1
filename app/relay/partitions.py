"""Divides the partitions of an outbox among the relays that run, with advisory locks of their sessions.

Each relay has a lock of its own, so that all relays can count each other, and takes locks of partitions up to its
share. PostgreSQL frees the locks of a session when it ends, so the other relays take over when one dies.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Final

from psycopg import AsyncConnection

from ..errors import RoomcastError
from .schema import ACTIVE, MAX_RELAYS, MEMBER, PARTITIONS

_JOIN: Final = "SELECT n FROM generate_series(%s::int, %s::int) AS n WHERE pg_try_advisory_lock(%s::int, n) LIMIT 1"
_COUNT: Final = """\
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %s::int::oid
AND objid BETWEEN %s AND %s AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_TAKE: Final = """\
SELECT p FROM unnest(%s::int[]) AS p WHERE pg_try_advisory_lock(%s::int, %s + p) LIMIT %s"""
_GIVE_BACK: Final = "SELECT pg_advisory_unlock(%s::int, %s + p) FROM unnest(%s::int[]) AS p"


class Partitions:
    """The partitions whose locks the session of ``connection`` has. ``table`` is the oid of the table, as an int4."""

    def __init__(self, connection: AsyncConnection[Any], table: int) -> None:
        self._connection: Final = connection
        self._table: Final = table
        self.own: Final[set[int]] = set()

    async def join(self) -> None:
        """Count as a relay from now on. Raises ``RoomcastError`` if there are too many."""
        cursor = await self._connection.execute(_JOIN, (MEMBER, MEMBER + MAX_RELAYS - 1, self._table))
        if await cursor.fetchone() is None:
            raise RoomcastError(f"{MAX_RELAYS} relays work on this outbox already; stop one of them.")

    async def rebalance(self, busy: Collection[int]) -> set[int]:
        """Take free partitions up to the share of this relay, or give back those beyond it; return the new ones.

        Partitions that are ``busy`` are not given back now.
        """
        cursor = await self._connection.execute(_COUNT, (self._table, MEMBER, MEMBER + MAX_RELAYS - 1))
        (relays,) = await cursor.fetchone() or (1,)
        share = -(-PARTITIONS // max(relays, 1))
        if len(self.own) < share:
            return await self._take(share - len(self.own))
        if len(self.own) > share:
            idle = [partition for partition in self.own if partition not in busy]
            await self._give_back(idle[: len(self.own) - share])
        return set()

    async def _take(self, count: int) -> set[int]:
        # In random order, so that relays that start together do not compete for the same ones.
        others = random.sample(range(PARTITIONS), PARTITIONS)
        wanted = [partition for partition in others if partition not in self.own]
        cursor = await self._connection.execute(_TAKE, (wanted, self._table, ACTIVE, count))
        taken = {partition for (partition,) in await cursor.fetchall()}
        self.own.update(taken)
        return taken

    async def _give_back(self, partitions: list[int]) -> None:
        self.own.difference_update(partitions)  # first, so that no lane reads them from now on
        if partitions:
            await self._connection.execute(_GIVE_BACK, (self._table, ACTIVE, partitions))
