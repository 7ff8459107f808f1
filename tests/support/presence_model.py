"""A model of presence in one room: which joins, leaves and statuses a broker announces, and what it lists.

``World`` performs random operations on three nodes and on the model, and compares them. Each broker has a subclass.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable

from hypothesis import strategies as st

from roomcast.broker.base import UserId

GRACE, STEP = 60.0, 25.0
NODES, USERS, CONNECTIONS = 3, 2, 2

OPERATIONS = st.tuples(
    st.sampled_from(
        ["enter"] * 4
        + ["leave"] * 2
        + ["lose"] * 2
        + ["set"] * 4
        + ["step"] * 4
        + ["stop", "crash", "expire", "suspend", "restore"]
    ),
    st.integers(0, NODES - 1),
    st.integers(1, USERS),
    st.integers(1, CONNECTIONS),
)
Operation = tuple[str, int, int, int]
#: Lists of operations; the average number is ``AVERAGE``.
LISTS = st.lists(OPERATIONS, min_size=30, max_size=60)
AVERAGE = 45


def examples(default: int) -> int:
    """Return how many lists to try: ``default``, or as many as ``PRESENCE_OPERATIONS`` operations need."""
    operations = os.environ.get("PRESENCE_OPERATIONS")
    return default if operations is None else int(operations) // AVERAGE


class UserModel:
    """The model of one user: what the members were told, and what is to follow."""

    def __init__(self) -> None:
        self.connections: set[tuple[str, int]] = set()
        self.announced: list[bool] = []
        self.joined_at = self.leave_at = float("-inf")
        self.status = ""

    @property
    def is_in(self) -> bool:
        """True if the members were told of a join, and of no leave since."""
        return bool(self.announced) and self.announced[-1]

    def enter(self, connection: tuple[str, int], now: float) -> None:
        """Add a connection."""
        self.connections.add(connection)
        self.settle(now)

    def remove(self, connection: tuple[str, int], now: float, *, is_lost: bool) -> None:
        """Remove a connection."""
        if connection in self.connections:
            self.connections.remove(connection)
            if not self.connections:
                self.leave_at = now + GRACE if is_lost else now
                self.settle(now)

    def settle(self, now: float) -> None:
        """Announce what is due."""
        if self.connections and not self.is_in and now >= self.joined_at + GRACE:
            self.announced.append(True)
            self.joined_at = now
        elif not self.connections and self.is_in and now >= self.leave_at:
            self.announced.append(False)
        if not self.connections and not self.is_in:
            self.status = ""


class Told:
    """What a member of the room was told about others: a client's view of it."""

    def __init__(self) -> None:
        self.joins: defaultdict[UserId, list[bool]] = defaultdict(list)
        self.statuses: dict[UserId, str] = {}

    def on_presence(self, user_id: UserId, has_joined: bool) -> None:
        """Record a join or a leave; fail if it is not expected after the one before."""
        assert bool(self.joins[user_id] and self.joins[user_id][-1]) is not has_joined, self.joins
        self.joins[user_id].append(has_joined)
        if has_joined:
            self.statuses[user_id] = ""
        else:
            del self.statuses[user_id]

    def on_status(self, user_id: UserId, status: str) -> None:
        """Record a status; fail if the user is not in the room."""
        assert user_id in self.statuses, (user_id, status, self.joins)
        self.statuses[user_id] = status


class World(ABC):
    """Three nodes, by their ``names``, and the model. ``now`` is the time of the model."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.now = 0.0
        self.users: defaultdict[int, UserModel] = defaultdict(UserModel)
        self._performed = 0

    # What a broker does.

    @abstractmethod
    async def enter(self, number: int, user_id: int, connection: int) -> None:
        """Enter the room on a node."""

    @abstractmethod
    async def leave(self, number: int, user_id: int, connection: int, *, is_lost: bool) -> None:
        """Leave the room on a node."""

    @abstractmethod
    async def set_status(self, number: int, user_id: int, status: str) -> None:
        """Set a status on a node."""

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and announce what is due."""

    @abstractmethod
    async def end(self, what: str, number: int, steps: int) -> None:
        """Stop, crash, expire, suspend or restore a node, and update the model."""

    @abstractmethod
    async def told(self) -> Told:
        """Return what the members were told until now."""

    @abstractmethod
    async def listed(self) -> dict[UserId, str]:
        """Return the listed users and their statuses."""

    @abstractmethod
    async def members(self) -> set[UserId]:
        """Return all members."""

    # Operations.

    async def perform(self, what: str, number: int, user_id: int, connection: int) -> None:
        """Perform one operation on a node and in the model, and compare what was announced and what is listed."""
        user = self.users[user_id]
        self._performed += 1
        if what == "enter":
            await self.enter(number, user_id, connection)
            user.enter((self.names[number], connection), self.now)
        elif what in ("leave", "lose"):
            number, connection = self._choose(user, number, connection)
            await self.leave(number, user_id, connection, is_lost=what == "lose")
            user.remove((self.names[number], connection), self.now, is_lost=what == "lose")
        elif what == "set":
            number, connection = self._choose(user, number, connection)
            status = f"{self._performed}" if self._performed % 4 else ""
            await self.set_status(number, user_id, status)
            if any(name == self.names[number] for name, _ in user.connections):
                user.status = status
        elif what == "step":
            await self.step()
        else:
            await self.end(what, number, connection * user_id - 1)
        await self.check(is_quiet=what == "step")

    def _choose(self, user: UserModel, number: int, connection: int) -> tuple[int, int]:
        """Return a connection that the user has on a running node, if there is one."""
        found = sorted(one for one in user.connections if one[0] in self.names)
        if found:
            name, connection = found[connection % len(found)]
            number = self.names.index(name)
        return number, connection

    async def step(self) -> None:
        """Let so much time pass that all statuses that wait are announced."""
        await self.pass_time(STEP)
        self.now += STEP
        for user in self.users.values():
            user.settle(self.now)

    def lose(self, ended: set[str]) -> None:
        """Lose the connections of nodes in the model."""
        for user in self.users.values():
            for connection in [one for one in user.connections if one[0] in ended]:
                user.remove(connection, self.now, is_lost=True)

    def _those(self, condition: Callable[[UserModel], bool]) -> set[UserId]:
        return {user_id for user_id, user in self.users.items() if condition(user)}

    async def check(self, *, is_quiet: bool) -> None:
        """Compare with the model. If it ``is_quiet``, no status waits to be announced."""
        told = await self.told()
        found = {user_id: joins for user_id, joins in told.joins.items() if joins}
        assert found == {user_id: user.announced for user_id, user in self.users.items() if user.announced}
        listed = await self.listed()
        assert listed == {user_id: user.status for user_id, user in self.users.items() if user.is_in}
        assert listed.keys() == told.statuses.keys()
        assert await self.members() == self._those(lambda user: user.is_in or bool(user.connections))
        if is_quiet:
            assert told.statuses == listed

    async def settle(self) -> None:
        """Wait until nothing is to be announced any more; the members were told who is there, and each status."""
        for _ in range(3):
            await self.step()
        await self.check(is_quiet=True)
        assert all(user.is_in is bool(user.connections) for user in self.users.values())
