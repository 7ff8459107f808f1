"""Tests of unread messages on the embedded broker."""

from __future__ import annotations

import pytest
from brokers import Start, on_memory
from faulty_broker import FaultyBroker
from gateway_tools import ROOM
from serving import Serve, connect
from unread_messages import UnreadMessages, publish

from roomcast.broker.memory_marks import MemoryMarks
from roomcast.errors import Unavailable


class TestUnreadMessages(UnreadMessages):
    """On the embedded broker."""

    @pytest.fixture
    def start(self, serve: Serve) -> Start:
        """Start a server."""
        return on_memory(serve)


async def test_a_broker_that_cannot_be_reached(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join works without ``unread``, and a mark is refused with ``unavailable``."""
    server = await serve(broker=FaultyBroker())
    ids = await publish(server)

    async def fail(*_: object) -> None:
        raise Unavailable("The broker cannot be reached.")

    monkeypatch.setattr(MemoryMarks, "count_read", fail)
    monkeypatch.setattr(MemoryMarks, "move", fail)
    async with connect(server) as alice:
        assert (await alice.join(ROOM))["data"] == {"message": f"Joined room {ROOM}"}
        await alice.send("mark_read", ROOM, {"event_id": ids[0]})
        assert (await alice.recv_type("error"))["data"]["code"] == "unavailable"
