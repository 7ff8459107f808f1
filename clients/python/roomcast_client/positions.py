"""What a listener has received, and what each frame means for it. Nothing in this module does I/O."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from .calls import personal_room
from .errors import ListenerStopped
from .results import EventFrame

log = logging.getLogger("roomcast_client")

#: The ``id`` of the request with which a listener replaces its token.
REFRESH: Final = "refresh"
#: Codes of error frames after which the same request can succeed.
_TEMPORARY: Final = frozenset(("rate_limited", "in_progress", "timeout", "unavailable", "internal"))
#: Frames that are neither events nor handled here.
_REPLIES: Final = frozenset(("pong", "token_refreshed", "marked_read", "presence_set", "members", "history", "sent"))


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of ``room`` may be missing between the one before and the one after this.

    The history of the server did not reach back far enough, or events were lost. Read the state of the room from your
    application again. ``last_id`` is the id of the room's newest event at this point.
    """

    room: str
    last_id: str


class Positions:
    """The rooms of a listener, with the id of the last event in each, and the events that wait to be taken."""

    def __init__(self, rooms: Iterable[str], known: Mapping[str, str]) -> None:
        #: The position in each room, or None before it was joined for the first time.
        self._last_ids: Final[dict[str, str | None]] = {room: known.get(room) for room in rooms}
        self._personal = next(((room, id) for room, id in known.items() if room.startswith("user:")), None)
        self._waiting: Final[deque[EventFrame | Gap]] = deque()
        self._joined: Final[set[str]] = set()
        #: Rooms whose join was refused for the moment.
        self.refused: Final[list[str]] = []
        self.is_welcome = False

    @property
    def known(self) -> dict[str, str]:
        """The id of the last event that was taken, for each room that has one."""
        found = {room: id for room, id in self._last_ids.items() if id is not None}
        return found if self._personal is None else {**found, self._personal[0]: self._personal[1]}

    @property
    def is_complete(self) -> bool:
        """True if the connection is in all rooms."""
        return self.is_welcome and len(self._joined) == len(self._last_ids)

    def start_connection(self) -> list[dict[str, Any]]:
        """Forget the connection before this one; return the messages that join all rooms."""
        self._joined.clear()
        self.refused.clear()
        self.is_welcome = False
        return [self.join(room) for room in self._last_ids]

    def since(self) -> str:
        """Return the position in the personal room, empty if there is none yet."""
        return "" if self._personal is None else self._personal[1]

    def join(self, room: str) -> dict[str, Any]:
        """Return the message that joins ``room`` and resumes it."""
        return {"type": "join_room", "room": room, "data": {"since": self._last_ids[room]}}

    def take(self) -> EventFrame | Gap | None:
        """Return the next event or gap, and move the position behind it; return None if there is none."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if isinstance(item, Gap):
            self._move(item.room, item.last_id)
        elif (id := item.get("id")) is not None:
            self._move(item.get("room"), id)
        return item

    def handle(self, frame: dict[str, Any]) -> None:
        """Handle a frame of the server. Raises ``ListenerStopped``."""
        type, room, data = frame.get("type"), frame.get("room"), frame.get("data") or {}
        if type == "connected":
            self._on_welcome(data)
        elif type == "joined_room" and room in self._last_ids:
            self._joined.add(room)
            self._resume(room, self._last_ids[room], data)
        elif type == "resync":
            self._waiting.append(Gap(room or self._personal_name, str(data.get("last_id"))))
        elif type == "error":
            self._on_error(frame.get("id"), room, str(data.get("code")), str(data.get("error")))
        elif type == "left_room":
            raise ListenerStopped(f"The connection was removed from {room}.", "left_room", room)
        elif type not in _REPLIES:
            self._waiting.append(cast(EventFrame, frame))

    @property
    def _personal_name(self) -> str:
        return "" if self._personal is None else self._personal[0]

    def _move(self, room: str | None, id: str) -> None:
        if room is None or room == self._personal_name:
            self._personal = (self._personal_name, id)
        elif room in self._last_ids:
            self._last_ids[room] = id

    def _on_welcome(self, data: Mapping[str, Any]) -> None:
        self.is_welcome = True
        name = personal_room(data["user_id"])
        before = self.since() if self._personal_name == name else None
        self._personal = (name, before or "")
        self._resume(name, before or None, data)

    def _resume(self, room: str, before: str | None, data: Mapping[str, Any]) -> None:
        """Read ``recovered`` and ``last_id`` of a welcome or a join. Nothing is missing if there was no position."""
        last_id = data.get("last_id")
        if data.get("recovered") or last_id is None:
            return
        if before is None:
            self._move(room, last_id)
        else:
            self._waiting.append(Gap(room, last_id))

    def _on_error(self, id: Any, room: str | None, code: str, sentence: str) -> None:
        if id == REFRESH:
            log.warning("The server does not accept the new token: %s", sentence)
        elif room in self._last_ids and code in _TEMPORARY:
            log.warning("%s cannot be joined now: %s", room, sentence)
            self.refused.append(room)
        else:
            raise ListenerStopped(f"{room or 'The connection'}: {sentence}", code, room)
