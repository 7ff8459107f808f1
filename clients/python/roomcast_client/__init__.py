"""A client of roomcast for Python backends: publish events, see who is there, remove users, make tokens.

::

    from roomcast_client import Roomcast

    roomcast = Roomcast("http://127.0.0.1:8000", api_key)
    roomcast.publish("task.created", "project:123", {"task_id": 790, "title": "Try it"})

``AsyncRoomcast`` is the same for asyncio. ``roomcast_client.testing`` records and checks events in tests,
``roomcast_client.listener`` receives events. The guide is
https://github.com/roomcast/roomcast/blob/main/docs/python-client.md
"""

from .async_client import AsyncRoomcast
from .calls import personal_room
from .client import Roomcast
from .errors import (
    ApiError,
    AuthenticationFailed,
    BadResponse,
    Conflict,
    ListenerStopped,
    PermissionDenied,
    Problem,
    RateLimited,
    Refused,
    RoomcastError,
    ServerFailed,
    Unreachable,
)
from .results import Event, EventFrame, History, Member, Room, Ticket, UserId, UserStatus
from .retries import Retries
from .tokens import mint_token

__all__ = [
    "ApiError",
    "AsyncRoomcast",
    "AuthenticationFailed",
    "BadResponse",
    "Conflict",
    "Event",
    "EventFrame",
    "History",
    "ListenerStopped",
    "Member",
    "PermissionDenied",
    "Problem",
    "RateLimited",
    "Refused",
    "Retries",
    "Room",
    "Roomcast",
    "RoomcastError",
    "ServerFailed",
    "Ticket",
    "Unreachable",
    "UserId",
    "UserStatus",
    "mint_token",
    "personal_room",
]
