"""The methods of ``service`` about rooms with members, and its queues."""

from __future__ import annotations

from broker_contract import RecordingListener
from user_ids import USER_IDS

from roomcast import personal_room, user_of_room
from roomcast.broker.memory import MemoryBroker
from roomcast.service import Service


class Host:
    """The part of a host that these methods use."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()


async def test_occupied_rooms() -> None:
    """A room is occupied while it has a member, or one who may return."""
    host = Host()
    service = Service(host)  # type: ignore[arg-type]
    broker = host.broker
    await broker.start(RecordingListener())
    try:
        assert not await service.is_occupied("channel:1")
        await broker.enter("channel:1", 1, "alice", 1)
        await broker.enter("user:1", 1, "alice", 1)
        await broker.enter("channel:2", 1, "alice", 1)
        await broker.leave("channel:2", 1, 1, is_lost=True)
        assert await service.is_occupied("channel:1")
        assert await service.is_occupied("channel:2")
        assert await service.occupied_rooms() == {"channel:1", "channel:2", "user:1"}
        await broker.leave("channel:1", 1, 1)
        assert not await service.is_occupied("channel:1")
        assert await service.occupied_rooms() == {"channel:2", "user:1"}
        assert service.queue("polls") is broker.queue("polls")
    finally:
        await broker.close()


def test_users_of_rooms() -> None:
    """The personal room of each user names the user, and no other room does."""
    for user_id in USER_IDS:
        assert user_of_room(personal_room(user_id)) == user_id
    assert user_of_room("channel:1") is None
    assert user_of_room("users:1") is None
