"""Validate events and publish them through the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from marshmallow import Schema

from ..broker.base import Publication
from ..errors import InvalidEvent, Refused
from ..plugin import EventType
from ..protocol import messages
from .node import Node


class Publishing:
    """Publishes the events of plugins, for clients too, and of the HTTP API."""

    def __init__(self, node: Node) -> None:
        self._registry: Final = node.registry
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` as an ``event`` and publish it in ``room``; the result is its id. Raises ``Refused``."""
        room, payload = self.payload(event, room, data, sender)
        return self._broker.publish(room, payload, key)

    def payload(self, event: str | type[Schema], room: str, data: Any, sender: str | None) -> tuple[str, bytes]:
        """Return the normal name of ``room`` and the validated payload, which ``publish`` passes to the broker.

        Raises ``Refused``, and ``TypeError`` if the event's schema returned a value that JSON does not have.
        """
        kind = self._registry.event(event)
        if kind.published_by_core:
            raise InvalidEvent("unknown_type", f"{kind.type} is announced by roomcast itself and cannot be published.")
        try:
            body = kind.validator.event(data)
        except Refused as refused:
            raise InvalidEvent(refused.code, refused.message, refused.fields) from refused
        has_members = room in self._delivery.rooms  # its name was checked, and it is not a personal room
        if not has_members:
            room = self.check_room(room)
        if kind.rooms:
            self.check_destination(kind, room)
        shown = None if not has_members and room.startswith("user:") else room
        return room, messages.event(kind.type, shown, body, sender)

    def prepare(self, event: str, room: str, data: Any, sender: str | None, key: str | None) -> Publication:
        """Return the validated publication of one event of a list; raise ``Refused``."""
        return Publication(*self.payload(event, room, data, sender), key)

    @staticmethod
    def check_destination(kind: EventType, room: str) -> None:
        """Raise ``Refused`` if events of this ``kind`` may not go to ``room``, whose form was checked."""
        if room[: room.index(":")] not in kind.rooms:
            wanted = " or ".join(f"{type}:…" for type in kind.rooms)
            raise Refused("bad_room", f"{kind.type} goes to {wanted}, not to {room}.")

    def check_room(self, room: str) -> str:
        """Return the normal name of ``room``.

        Raises ``Refused`` if ``room`` is not a room name, or of a type that no plugin declares.
        """
        if not isinstance(room, str):
            raise messages.bad_room(None)
        self._registry.room(name := messages.normalize_room(room))
        return name
