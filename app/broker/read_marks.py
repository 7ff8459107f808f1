"""The interface of a broker's marks: up to where each user has read each room.

A room counts its messages, the events that were published with ``is_message``. A mark is an event of the room, stored
with the number of messages up to it. So the number of unread messages is a difference, and no events are read or stored
for it. The count goes on when events leave the history. It begins again if the room loses its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple

#: How long the marks of a user outlive the last one that was set, in seconds.
READ_TTL: Final = 30 * 24 * 3600.0
#: In how many rooms a user has a mark at most. Beyond that, those that were set first are dropped.
MAX_MARKS: Final = 1000


class Mark(NamedTuple):
    """The event up to which a user has read a room, and the number of messages up to it."""

    event_id: str
    messages: int


class ReadMarks(ABC):
    """The marks of all users.

    A mark never moves backward. A message that a user publishes moves the mark of this user to it: within a second on
    other nodes, at once on this node.
    """

    @abstractmethod
    async def move(self, room: str, user_id: int | str, event_id: str) -> Mark | None:
        """Mark ``room`` as read up to the event ``event_id``, unless it is already; return the mark of ``user_id``.

        Return None if ``event_id``, which may be any string, is not the id of an event of this room, or that event was
        lost. The event need not be stored any more. Then the messages after it that had left the history with it count
        as read. Raises ``Unavailable``.
        """

    @abstractmethod
    async def count_read(self, room: str, user_id: int | str) -> int:
        """Return the number of messages of ``room`` up to the mark of ``user_id``.

        Without a mark, it is the number of those that have left the history. Raises ``Unavailable``.
        """

    @abstractmethod
    def count_all(self, room: str) -> int:
        """Return the number of messages of a subscribed room, up to the last event that the listener has received.

        The number of unread messages is the difference to ``count_read``, but not less than 0.
        """
