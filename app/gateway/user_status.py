"""The online status of users, with the rooms that they are in on all nodes.

The broker knows how many connections a user has and on which nodes. The names of a user's rooms are known only to these
nodes, so that a join writes no index. They are asked when a backend reads a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from ..broker.base import UserId, UserStatus
from ..protocol.user_id import personal_room
from .client import Client
from .node import Node

#: How long the nodes of a user may take to answer, in seconds.
ANSWER_TIMEOUT: Final = 1.0
#: The number of users in one question. Reading and encoding their rooms takes about 1 ms.
USERS_PER_QUESTION: Final = 250
#: The size of the names in one answer, in bytes. The rooms of the other users are missing then.
MAX_ANSWER_BYTES: Final = 256 * 1024
#: How many callers of a node ask at the same time. The others wait.
MAX_ASKING: Final = 4


class Report(NamedTuple):
    """The status of a user. The rooms are in the order of their names, without the personal room.

    ``is_complete`` is False if rooms are missing: a node did not answer in time, or its answer was too large.
    """

    status: UserStatus
    rooms: list[str]
    is_complete: bool

    def document(self, user_id: UserId) -> dict[str, Any]:
        """Return what the HTTP API returns."""
        status = self.status
        return {
            "user_id": user_id,
            "online": status.connections > 0,
            "connections": status.connections,
            "rooms": self.rooms,
            "rooms_complete": self.is_complete,
            "since": _time(status.since),
            "last_seen": _time(status.last_seen),
        }


class UserStatuses:
    """Reads the status of users, and answers other nodes that do so."""

    def __init__(self, node: Node) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._slots: Final = asyncio.Semaphore(MAX_ASKING)

    async def read(self, user_ids: Sequence[UserId]) -> list[Report]:
        """Return the status of each of ``user_ids``, in their order.

        A node that does not answer within ``ANSWER_TIMEOUT`` is not asked again. Raises ``Unavailable`` if the broker
        cannot be reached.
        """
        reports: list[Report] = []
        silent: set[str] = set()
        async with self._slots:
            for i in range(0, len(user_ids), USERS_PER_QUESTION):
                reports += await self._read_some(user_ids[i : i + USERS_PER_QUESTION], silent)
                await asyncio.sleep(0)  # the embedded broker answers without waiting
        return reports

    async def _read_some(self, user_ids: Sequence[UserId], silent: set[str]) -> list[Report]:
        """Return the statuses of some users. Nodes in ``silent`` are not asked; those that do not answer are added."""
        statuses = await self._broker.statuses(user_ids)
        asked: dict[str, list[UserId]] = {}
        for user_id, status in zip(user_ids, statuses, strict=True):
            for node in status.nodes:
                asked.setdefault(node, []).append(user_id)
        questions = {node: orjson.dumps(users) for node, users in asked.items() if node not in silent}
        answers = await self._broker.ask(questions, ANSWER_TIMEOUT)
        silent.update(questions.keys() - answers)
        rooms: dict[UserId, set[str]] = {}
        incomplete: set[UserId] = set()
        for node, users in asked.items():
            answer = orjson.loads(answers[node]) if node in answers else [None] * len(users)
            for user_id, found in zip(users, answer, strict=True):
                if found is None:
                    incomplete.add(user_id)
                else:
                    rooms.setdefault(user_id, set()).update(found)
        return [
            Report(status, sorted(rooms.get(user_id, ())), user_id not in incomplete)
            for user_id, status in zip(user_ids, statuses, strict=True)
        ]

    def answer(self, question: bytes) -> bytes:
        """Return the rooms of users on this node: for each of them a list, or None if it would be too large."""
        rest = MAX_ANSWER_BYTES
        found: list[list[str] | None] = []
        for user_id in orjson.loads(question):
            rooms = self._rooms_of(user_id)
            rest -= sum(map(len, rooms))  # names are ASCII
            found.append(rooms if rest >= 0 else None)
        return orjson.dumps(found)

    def _rooms_of(self, user_id: UserId) -> list[str]:
        clients = self._delivery.personal.get(personal_room(user_id), ())
        return list({room for client in clients if isinstance(client, Client) for room in client.rooms})


def _time(unix_time: float | None) -> str | None:
    """Return a time in the form of the timestamps of events."""
    return None if unix_time is None else datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
