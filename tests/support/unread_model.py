"""A naive model of marks and counts, to compare a broker with.

The model keeps all events and looks at each of them. ``play`` carries out the same steps on a broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from broker_contract import HISTORY_SIZE, Harness
from hypothesis import strategies as st

from roomcast.broker.base import Publication
from roomcast.broker.memory import MemoryBroker

USERS = (1, "1", 2)


class Publish(NamedTuple):
    """Publish events at one node: for each, True for a message, and its author or None."""

    node: int
    events: list[tuple[bool, int | str | None]]
    at_once: bool


class Mark(NamedTuple):
    """Mark an event: ``back`` events before the newest one, or as far back as there are events."""

    node: int
    user: int | str
    back: int


class Join(NamedTuple):
    """Count the unread messages of a user."""

    node: int
    user: int | str


class Sweep(NamedTuple):
    """Free what has expired, which nothing has. Redis does that itself."""

    node: int


_NODES = st.integers(0, 1)
_AUTHORS = st.sampled_from([None, None, *USERS])
STEPS = st.lists(
    st.one_of(
        st.builds(Publish, _NODES, st.lists(st.tuples(st.booleans(), _AUTHORS), min_size=1, max_size=8), st.booleans()),
        st.builds(Mark, _NODES, st.sampled_from(USERS), st.integers(0, 12)),
        st.builds(Join, _NODES, st.sampled_from(USERS)),
        st.builds(Sweep, _NODES),
    ),
    max_size=25,
)


@dataclass
class Model:
    """All events of a room, True for a message, and the marks by user, each the number of events that are read.

    A mark at an event that had left the history has two numbers: messages that had left it with the event may count
    as read, depending on how much more than the history the broker stores.
    """

    ids: list[str] = field(default_factory=list)
    messages: list[bool] = field(default_factory=list)
    marks: dict[int | str, tuple[int, int]] = field(default_factory=dict)

    def mark(self, user: int | str, read: int) -> None:
        """Move the mark of ``user`` to after ``read`` events."""
        if read > self.marks.get(user, (0, 0))[0]:
            self.marks[user] = (read, max(read, len(self.ids) - HISTORY_SIZE))

    def unread(self, user: int | str) -> range:
        """Return the numbers of unread messages that are correct."""
        least = most = max(len(self.ids) - HISTORY_SIZE, 0)
        if user in self.marks:
            most, least = self.marks[user]
        return range(sum(self.messages[least:]), sum(self.messages[most:]) + 1)


Step = Publish | Mark | Join | Sweep


async def play(nodes: Sequence[Harness], room: str, steps: list[Step]) -> None:
    """Carry out ``steps`` in ``room`` on ``nodes``, and compare each result with the model."""
    model = Model()
    for node in nodes:
        await node.broker.subscribe([room])
    for step in [*steps, *(Join(node, user) for node in (0, 1) for user in USERS)]:
        node = nodes[step.node % len(nodes)]
        if isinstance(step, Mark | Join):  # let other nodes write the mark of an own message, which may take a second
            for other in nodes:
                await other.broker.marks.count_read(room, step.user)
        if isinstance(step, Publish):
            publications = [Publication(room, b"x", None, *event) for event in step.events]
            if step.at_once:
                model.ids += await node.broker.publish_many(publications)
            else:
                model.ids += [await node.broker.publish(*publication) for publication in publications]
            for number, (is_message, author) in enumerate(step.events, len(model.messages) + 1):
                model.messages.append(is_message)
                if is_message and author is not None:
                    model.marks[author] = (number, number)
        elif isinstance(step, Mark):
            if model.ids:
                number = max(len(model.ids) - step.back, 1)
                mark = await node.broker.marks.move(room, step.user, model.ids[number - 1])
                model.mark(step.user, number)
                assert mark is not None
                assert mark.event_id == model.ids[model.marks[step.user][0] - 1]
        elif isinstance(step, Sweep):
            if isinstance(node.broker, MemoryBroker):
                await node.broker.sweep()
        else:
            assert await count(node, room, step.user, len(model.ids)) in model.unread(step.user), step


async def count(node: Harness, room: str, user: int | str, events: int) -> int:
    """Return the number of unread messages when the listener of ``node`` has received ``events`` events."""
    await node.listener.until(lambda: sum(name == room for name, _, _ in node.listener.events) >= events)
    marks = node.broker.marks
    return marks.count_all(room) - await marks.count_read(room, user)
