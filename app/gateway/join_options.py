"""The data of ``join_room``, which has the options of a join, and of its reply ``joined_room``.

``OPTIONS`` has the fields that this server carries out. Every other field is refused, so that no option is ignored.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..protocol import frames, messages
from ..protocol.messages import MAX_PAGE, Request
from .command_data import invalid_field, parse_count

#: The fields of the data.
OPTIONS: Final = ("since", "last", "presence")


class JoinOptions(NamedTuple):
    """The options of one join.

    ``since`` is the id of the last event that the client has seen, "" if it has seen none, and None if it does not ask
    to resume. ``last`` is how many of the newest events it asks for, or 0. ``presence`` is True if it asks for the
    members of the room.
    """

    since: str | None = None
    last: int = 0
    presence: bool = False

    @property
    def reads_history(self) -> bool:
        """True if events of the history follow ``joined_room``."""
        return self.since is not None or self.last > 0


#: The options of a join without data. Most joins have them.
PLAIN: Final = JoinOptions()


def parse_options(request: Request, fields: tuple[str, ...] = OPTIONS) -> JoinOptions:
    """Return the options of a ``join_room`` request. Raises ``Refused`` for fields other than ``fields``."""
    data = request.data
    if not data:
        return PLAIN
    messages.refuse_other_fields(request, *fields)
    since = None
    if "since" in data:
        since = data["since"]
        if since is not None and not isinstance(since, str):
            raise invalid_field("since", "Not a string", "give the id of the last event you saw, or null")
        since = since or ""
    last = parse_count(data, "last", 0, MAX_PAGE, "a number of events")
    presence = data.get("presence", False)
    if not isinstance(presence, bool):
        raise invalid_field("presence", "Not true or false", "give true if you want the members of the room, or false")
    return JoinOptions(since, last, presence)


def joined_data(room: str) -> dict[str, Any]:
    """Return the part of the data of ``joined_room`` that each join has."""
    return {"message": f"Joined room {room}"}


def joined_response(request: Request, data: dict[str, Any]) -> bytes:
    """Build the ``joined_room`` frame."""
    return frames.text(messages.reply("joined_room", data, room=request.room, id=request.id))
