"""What a plugin declares: events, commands, room types and routes, and the functions that roomcast calls.

``plugin`` creates these values, ``registry`` collects them, and the gateway and the documents read them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from marshmallow import Schema

from .live_event import LiveOptions
from .room_options import RoomOptions
from .schemas.validator import Validator

if TYPE_CHECKING:
    from aiohttp.web import Request, StreamResponse

    from .context import Context
    from .route_user import User
    from .service import Service

SchemaClass = type[Schema]
#: Who may use a command: members of the room that the request names, or any connected user.
Access = Literal["member", "anyone"]
#: Handles a command: receives the request's context and its validated data, returns the data of the reply.
Handler = Callable[["Context", dict[str, Any]], Awaitable["dict[str, Any] | None"]]
PlainHandler = Callable[["Context", dict[str, Any]], "dict[str, Any] | None"]
#: Decides about a join: receives the request's context and the id of the room without its type.
Rule = Callable[["Context", str], Awaitable[bool]]
PlainRule = Callable[["Context", str], bool]
Lifespan = Callable[["Service"], AbstractAsyncContextManager[None]]
#: Handles an HTTP request.
Route = Callable[["Service", "Request"], Awaitable["StreamResponse"]]
PlainRoute = Callable[["Service", "Request"], "StreamResponse"]
#: Handles an HTTP request of a user.
UserRoute = Callable[["Service", "Request", "User"], Awaitable["StreamResponse"]]
PlainUserRoute = Callable[["Service", "Request", "User"], "StreamResponse"]
#: Who may call a route: users with a token, programs with an API key, or everyone.
RouteAuth = Literal["user", "api_key", "public"]
Scope = Literal["publish", "read", "moderate"]


class EventType(NamedTuple):
    """A declared event.

    ``rooms`` are the types of rooms in which it may be published; empty means any. If ``published_by_core`` is True,
    only roomcast itself sends it. Such events have no id and are not stored. ``live`` has the options of an event that
    is declared with ``stored=False``; it is None for others. If ``unread`` is True, the event is a message: it counts
    as unread. The registry sets ``has_hooks`` if a plugin has hooks for publishing it.
    """

    type: str
    validator: Validator
    description: str
    rooms: tuple[str, ...] = ()
    published_by_core: bool = False
    live: LiveOptions | None = None
    unread: bool = False
    has_hooks: bool = False

    @property
    def is_stored(self) -> bool:
        """True if the event has an id and a place in the history."""
        return self.live is None and not self.published_by_core


class Command(NamedTuple):
    """A declared command. ``reply`` is the type of the reply; ``Plugin.command`` explains the other fields."""

    type: str
    validator: Validator
    handler: Handler
    description: str
    reply: str
    pipelined: bool = False
    access: Access = "member"


class RoomType(NamedTuple):
    """A declared room type. If ``rule`` is None, the built-in rule decides, which ``ROOM_ACCESS`` selects."""

    type: str
    rule: Rule | None
    description: str
    options: RoomOptions = RoomOptions()


class MountedRoute(NamedTuple):
    """An HTTP route of a plugin, served at ``/plugins/<plugin name><path>``.

    The handler takes the user as a third argument if ``auth`` is ``"user"``. ``scope`` is that of the API key.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[StreamResponse]]
    auth: RouteAuth
    scope: Scope | None
    description: str


def description_of(declared: Any) -> str:
    """Return the docstring of a function or a schema, but not the one that a schema inherits from marshmallow."""
    docstring = declared.__dict__.get("__doc__") if isinstance(declared, type) else declared.__doc__
    return inspect.cleandoc(docstring) if docstring else ""
