"""The interfaces of the gateway that ``context`` uses. ``gateway`` implements them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from marshmallow import Schema

from .auth.identity import Identity
from .auth.room_access import RoomAccess
from .broker.base import Broker, BrokerMetric, History, Publication, UserId
from .connection_id import ConnectionId
from .fastpath import WriteQueue
from .live_event import LivePublication
from .plugin_state import State

_T = TypeVar("_T")

#: An event to publish: its schema or type, its room and its data.
NewEvent = tuple[str | type[Schema], str, Mapping[str, Any]]

#: Returns metrics of a plugin.
MetricSource = Callable[[], Iterable[BrokerMetric]]


class EventKind(Protocol):
    """The part of an event's declaration that its publisher needs: ``declarations.EventType``."""

    @property
    def unread(self) -> bool:
        """True if the event counts as unread."""

    @property
    def has_hooks(self) -> bool:
        """True if hooks must be called before or after it is published."""


class EventPublisher(Protocol):
    """Validates and publishes events: ``gateway.publishing.Publishing``."""

    def publish(
        self, event: str | type[Schema], room: str, data: Mapping[str, Any], sender: str | None, key: str | None
    ) -> Awaitable[str]:
        """Validate ``data`` and publish it; the result is the event's id. See ``Service.publish``."""

    def payload(
        self, event: str | type[Schema], room: str, data: Any, sender: str | None, key: str | None = None
    ) -> tuple[str, bytes, EventKind]:
        """Validate ``data``; return the room's normal name, the event as JSON without an id, and its declaration.

        Raises ``Refused``.
        """

    def prepare_many(
        self,
        events: Iterable[NewEvent],
        sender: str | None,
        key: str | None,
        shown_key: str | None,
        author: UserId | None = None,
        number: int = 1,
    ) -> list[Publication]:
        """Validate ``events``. Raises ``Refused``.

        With a ``key``, each gets a key of its own, which ends with its number; ``number`` is that of the first.
        """

    def publish_many(
        self, publications: Sequence[Publication], source: Literal["client", "plugin"]
    ) -> Awaitable[list[str]]:
        """Publish validated events, with the hooks before and after that."""

    def check_room(self, room: str) -> str:
        """Return the normal name of ``room``. Raises ``Refused``."""

    def publish_with_hooks(self, publication: Publication, source: Literal["client", "plugin"]) -> Awaitable[str]:
        """Call the hooks before and after the publication of a validated event. For events with ``has_hooks``."""

    def prepare_live(
        self,
        event: str | type[Schema],
        room: str,
        data: Any,
        sender: str | None,
        user_id: UserId | None,
        key: str | None = None,
    ) -> LivePublication:
        """Validate ``data`` of an event that is not stored. Raises ``Refused``."""


class LiveSender(Protocol):
    """Sends events that are not stored: ``gateway.live_events.LiveEvents``."""

    @property
    def states(self) -> Mapping[Any, object]:
        """The last events that are kept."""

    def send(self, publication: LivePublication) -> None:
        """Send an event, now or at the end of its throttle."""

    def withdraw(self, event: str | type[Schema], room: str, user_id: UserId) -> None:
        """Drop the last event of a user."""


class ConnectionControl(Protocol):
    """Changes the connections of users on all nodes: ``gateway.signals.Signals``.

    ``connection`` limits a call to one connection of the user.
    """

    async def kick(self, room: str, user_id: UserId) -> None:
        """Remove the user from ``room``, as a moderator does."""

    async def disconnect(self, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Close the user's connections."""

    async def join(self, room: str, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Add the user to ``room``, without asking its rule."""

    async def leave(self, room: str, user_id: UserId, connection: ConnectionId | None = None) -> None:
        """Remove the user from ``room``."""


class DirectSender(Protocol):
    """Sends events to single connections: ``gateway.direct_events.DirectEvents``."""

    def send(self, connection: ConnectionId, payload: bytes) -> None:
        """Send an event as JSON. Raises ``Unavailable``."""


class LocalMembers(Protocol):
    """The connections of this node in each room: ``gateway.delivery.Delivery``."""

    def has(self, room: str, connection: WriteQueue, /) -> bool:
        """Return True if ``connection`` is a member of ``room``."""


class LimitedReads(Protocol):
    """Reads history for users: ``gateway.history_limit.LimitedHistory``."""

    async def read(self, user_id: UserId, /, *args: Any, **options: Any) -> History:
        """Read a page for a user, later if the user has read too much. See ``Broker.history``."""


class ThreadRunner(Protocol):
    """Runs plain functions in threads: ``gateway.threads.Threads``."""

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in a thread; return its result."""

    def call(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` on the event loop, from a thread; await its result if it can be awaited, and return it."""


class TaskRunner(Protocol):
    """Runs the tasks of plugins: ``gateway.plugin_tasks.PluginTasks``."""

    def spawn(self, plugin: str, work: Coroutine[Any, Any, _T], name: str | None = None) -> asyncio.Task[_T]:
        """Run ``work`` in a task. Raises ``Unavailable``."""


class PluginHost(Protocol):
    """The part of the gateway that one plugin reaches through ``Service`` and ``Context``."""

    @property
    def metric_sources(self) -> list[tuple[str, MetricSource]]:
        """What returns the metrics of plugins, with their names."""

    @property
    def state(self) -> State:
        """The objects of the plugin."""

    @property
    def settings(self) -> Any:
        """The settings of the plugin, or None if it declares none."""

    @property
    def name(self) -> str:
        """The name of the plugin."""

    @property
    def node_id(self) -> str:
        """The node's part of the ids of connections."""

    @property
    def control(self) -> ConnectionControl:
        """Changes the connections of users."""

    @property
    def direct_events(self) -> DirectSender:
        """Sends events to single connections."""

    @property
    def broker(self) -> Broker:
        """The broker."""

    @property
    def history(self) -> LimitedReads:
        """Reads history for clients."""

    @property
    def publishing(self) -> EventPublisher:
        """Publishes events."""

    @property
    def live_events(self) -> LiveSender:
        """Sends events that are not stored."""

    @property
    def delivery(self) -> LocalMembers:
        """The members on this node."""

    @property
    def room_access(self) -> RoomAccess:
        """The built-in access rule."""

    @property
    def tasks(self) -> TaskRunner:
        """The tasks of plugins."""

    @property
    def threads(self) -> ThreadRunner:
        """The threads for plain functions."""


class RequestingClient(Protocol):
    """The client behind a ``Context``: ``gateway.client.Client``."""

    id: int
    identity: Identity
    rooms: tuple[str, ...]
    #: See ``gateway.rate_limit``.
    bytes_left: int

    def count_event(self, size: int, *, is_first: bool) -> None:
        """Count an event of ``size`` bytes; raise ``Refused`` if the user publishes too much."""
