"""Tests of ``gateway.commands``: commands that are declared as pipelined."""

from __future__ import annotations

import asyncio
from typing import Any

from serving import PATIENCE, Serve, connect

from roomcast.broker.memory import MemoryBroker
from roomcast.gateway.commands import MAX_QUEUED


class SlowBroker(MemoryBroker):
    """A broker whose publishes of messages wait until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] = []

    async def publish(self, room: str, payload: bytes, *args: Any) -> str:
        if b'"message"' in payload:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]
        return await super().publish(room, payload, *args)

    async def wait_for(self, count: int) -> None:
        """Wait until ``count`` publishes are waiting."""
        async with asyncio.timeout(PATIENCE):
            while len(self.waiting) < count:
                await asyncio.sleep(0.001)

    def release(self) -> None:
        """Continue the waiting publishes."""
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


async def test_pipelined_commands_overlap(serve: Serve) -> None:
    """The next message starts before the broker has answered the last; replies keep their order."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        for i in range(5):
            await alice.send("send_message", "channel:1", {"content": str(i)}, id=i)
        await broker.wait_for(5)
        broker.release()
        frames = [await alice.recv() for _ in range(11)]
        assert [frame["id"] for frame in frames if frame["type"] == "sent"] == [0, 1, 2, 3, 4]
        contents = [frame["data"]["content"] for frame in frames if frame["type"] == "message"]
        assert contents == ["0", "1", "2", "3", "4"]


async def test_other_commands_wait_for_pipelined_commands(serve: Serve) -> None:
    """Another command starts after the messages before it, and the messages after it wait for it."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.send("send_message", "channel:1", {"content": "before"}, id="before")
        await broker.wait_for(1)
        await alice.send("leave_room", "channel:1", id="leave")
        await alice.send("send_message", "channel:1", {"content": "after"}, id="after")
        async with connect(server, 2, "bob") as bob:
            await bob.settled()  # the server has read alice's messages too
        assert len(broker.waiting) == 1
        broker.release()
        await alice.recv_type("error")
        answers = [(frame["type"], frame.get("id")) for frame in alice.frames]
        assert [answer for answer in answers if answer[1] in ("before", "leave", "after")] == [
            ("sent", "before"),
            ("left_room", "leave"),
            ("error", "after"),
        ]


async def test_the_number_of_pipelined_commands_is_limited(serve: Serve) -> None:
    """At most MAX_QUEUED messages of a client run; all are carried out in order."""
    broker = SlowBroker()
    server = await serve(broker=broker, ws_message_rate=0)
    async with connect(server) as alice:
        await alice.join("channel:1")
        total = MAX_QUEUED * 2 + 10
        for i in range(total):
            await alice.send("send_message", "channel:1", {"content": str(i)}, id=i)
        await broker.wait_for(MAX_QUEUED)
        async with connect(server, 2, "bob") as bob:
            await bob.settled()
        assert len(broker.waiting) == MAX_QUEUED
        got: list[int] = []
        while len(got) < total:
            broker.release()
            got.append((await alice.recv_type("sent"))["id"])
        assert got == list(range(total))


async def test_a_client_that_closes_during_a_pipelined_command(serve: Serve) -> None:
    """The client leaves its rooms after its message is published."""
    broker = SlowBroker()
    server = await serve(broker=broker)
    async with connect(server, 2, "bob") as bob:
        await bob.join("channel:1")
        async with connect(server) as alice:
            await alice.join("channel:1")
            await alice.send("send_message", "channel:1", {"content": "last words"})
            await broker.wait_for(1)
        broker.release()
        await bob.recv_type("message")
        assert (await bob.recv_type("user_left"))["data"]["username"] == "alice"
    assert not server.gateway.delivery.members("channel:1")
