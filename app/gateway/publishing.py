"""Validate events and publish them through the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

from marshmallow import Schema

from ..broker.base import Publication, UserId
from ..declarations import EventType
from ..errors import InvalidEvent, Refused
from ..live_event import MAX_KEPT_EVENT, LivePublication
from ..plugin_host import NewEvent
from ..protocol import messages
from .hooks import Hooks, Source
from .node import Node

#: How many events ``prepare_many`` accepts. Validating this number keeps the event loop busy for about 10 ms.
MAX_EVENTS: Final = 1000


class Publishing:
    """Publishes the events of plugins, for clients too, and of the HTTP API."""

    def __init__(self, node: Node, hooks: Hooks) -> None:
        self.hooks: Final = hooks
        self._registry: Final = node.registry
        self._stored_events: Final = node.registry.stored_events
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` as an ``event`` and publish it in ``room``; the result is its id. Raises ``Refused``."""
        room, payload, kind = self.payload(event, room, data, sender, key)
        if kind.has_hooks:
            return self.publish_with_hooks(Publication(room, payload, key, kind.unread), "plugin")
        return self._broker.publish(room, payload, key, kind.unread)

    async def publish_with_hooks(self, publication: Publication, source: Source) -> str:
        """Call the hooks before a validated event is published, and publish what they return."""
        return await self._broker.publish(*await self.hooks.before_publish(publication, source))

    def publish_many(self, publications: Sequence[Publication], source: Source) -> Awaitable[list[str]]:
        """Publish validated events, all or none; the result is their ids."""
        if self.hooks.follows_events:
            return self._publish_many_with_hooks(publications, source)
        return self._broker.publish_many(publications)

    async def _publish_many_with_hooks(self, publications: Sequence[Publication], source: Source) -> list[str]:
        checked: list[Publication] = []
        for publication in publications:
            try:
                checked.append(await self.hooks.before_publish(publication, source))
            except Refused as refused:
                # Not of its own class, which may take other arguments.
                sentence = f"Event {len(checked) + 1} of {len(publications)}: {refused.message}"
                raise Refused(refused.code, sentence, refused.fields, status=refused.status) from refused
        return await self._broker.publish_many(checked)

    def payload(
        self,
        event: str | type[Schema],
        room: str,
        data: Any,
        sender: str | None,
        key: str | None = None,
        kind: EventType | None = None,
    ) -> tuple[str, bytes, EventType]:
        """Return the normal name of ``room``, the validated payload, and the declaration of the event.

        ``key`` is the key that the event shows. ``kind`` is the declaration of an event that is not stored. Raises
        ``Refused``, and ``TypeError`` if the event's schema returned a value that JSON does not have.
        """
        if kind is None:  # nearly all events are found without the call
            kind = self._stored_events.get(event) or self._registry.stored_event(event)
        try:
            body = kind.validator.event(data)
        except Refused as refused:
            invalid = InvalidEvent(refused.code, refused.message, refused.fields)
            # The log of a handler shows the note. Callers of the HTTP API know the event, and get the fields.
            invalid.add_note(f"The data of {kind.type} is wrong: {dict(refused.fields or {})}")
            raise invalid from refused
        has_members = room in self._delivery.rooms  # its name was checked, and it is not a personal room
        if not has_members:
            room = self.check_room(room)
        if kind.rooms:
            self.check_destination(kind, room)
        shown = None if not has_members and room.startswith("user:") else room
        return room, messages.event(kind.type, shown, body, sender, key), kind

    def prepare_many(
        self,
        events: Iterable[NewEvent],
        sender: str | None,
        key: str | None,
        shown_key: str | None,
        author: UserId | None = None,
        number: int = 1,
    ) -> list[Publication]:
        """Return the validated publications of ``events``; raise ``Refused``.

        ``key`` is the beginning of the events' own idempotency keys, which end with their numbers; ``number`` is that
        of the first. ``shown_key`` is the key that the events show, ``author`` the user for ``Publication``.
        """
        found = list(events)
        if len(found) > MAX_EVENTS:
            raise ValueError(f"{len(found)} events are too many for publish_many; {MAX_EVENTS} is the most at once")
        publications = []
        for position, (event, room, data) in enumerate(found):
            try:
                room, payload, kind = self.payload(event, room, data, sender, shown_key)
            except Refused as refused:
                sentence = f"Event {position + 1} of {len(found)}: {refused.message}"
                raise refused.__class__(refused.code, sentence, refused.fields) from refused
            own_key = None if key is None else f"{key}/{number + position}"
            publications.append(Publication(room, payload, own_key, kind.unread, author))
        return publications

    def prepare_live(
        self,
        event: str | type[Schema],
        room: str,
        data: Any,
        sender: str | None,
        user_id: int | str | None,
        key: str | None = None,
    ) -> LivePublication:
        """Return the validated event, which ``LiveEvents.send`` sends. Arguments and errors are those of ``payload``.

        ``user_id`` is the user who caused it, or None.
        """
        kind = self._registry.live_event(event)
        assert kind.live is not None
        room, payload, _ = self.payload(event, room, data, sender, key, kind)
        if kind.live.keeps_state and len(payload) > MAX_KEPT_EVENT:
            sentence = f"{kind.type} may have at most {MAX_KEPT_EVENT} bytes as JSON; it has {len(payload)}."
            raise Refused("invalid_data", sentence)
        return LivePublication(kind.type, kind.live, room, sender, user_id, payload)

    def prepare(
        self, event: str, room: str, data: Any, sender: str | None, key: str | None, shown_key: str | None
    ) -> Publication | LivePublication:
        """Return the validated publication of one event of a list; raise ``Refused``.

        ``key`` is the event's own idempotency key, ``shown_key`` that of the request, which the event shows.
        """
        if self._registry.event(event).live is not None:
            return self.prepare_live(event, room, data, sender, None, shown_key)
        room, payload, kind = self.payload(event, room, data, sender, shown_key)
        return Publication(room, payload, key, kind.unread)

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
