"""Helpers for the tests of ``roomcast.gateway``: wait for the server, and look at its state."""

from __future__ import annotations

from typing import Any

from serving import PATH, token_for

from roomcast.broker.memory import MemoryBroker
from roomcast.web.server import Server

ROOM = "channel:1"


def frame_types(frames: list[dict[str, Any]]) -> list[str]:
    """Return the types of ``frames``."""
    return [frame["type"] for frame in frames]


async def members(server: Server, room: str = ROOM) -> dict[int | str, int]:
    """Return the users who are connected in the room and their numbers of connections, according to the broker."""
    found = await server.gateway.broker.members(room)
    return {member.user_id: member.connections for member in found if member.connections}


def is_empty(server: Server) -> bool:
    """Return True if the server has no connection, lease or subscription, and no room with connected users."""
    gateway = server.gateway
    broker = gateway.broker
    assert isinstance(broker, MemoryBroker)
    return not any(
        (
            gateway.keepalive.connections,
            gateway.delivery.rooms,
            gateway.delivery.personal,
            gateway.rooms.subscriptions._joining,
            broker._subscribed,
            any(connections for users in broker._presence.rooms.values() for _, connections, _ in users.values()),
            broker._leases._leases,
        )
    )


async def publish_numbered(server: Server, number: int, room: str = ROOM) -> str:
    """Publish event ``number``; return its id."""
    return await server.gateway.publishing.publish("task.deleted", room, {"task_id": number}, None, None)


def offset(id: str) -> int:
    """Return the offset in an event id."""
    return int(id.rpartition("-")[2])


def numbers(frames: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of the events among ``frames``."""
    return [frame["data"]["task_id"] for frame in frames if frame["type"] == "task.deleted"]


def path_with_since(id: str, **claims: Any) -> str:
    """Return the path to connect to with ``since``."""
    return f"{PATH}?token={token_for(**claims)}&since={id}"
