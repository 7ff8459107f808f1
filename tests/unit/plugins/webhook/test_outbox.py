"""What a node keeps while the queue cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from broker_contract import RecordingListener

from roomcast.broker.memory import MemoryBroker
from roomcast.plugins.webhook import outbox as module
from roomcast.plugins.webhook.outbox import Outbox


class Node:
    """A broker that does not run until ``start``, and an outbox that works."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.queue = self.broker.queue("webhook")
        self.outbox = Outbox(self.queue)
        self.task = asyncio.create_task(self.outbox.run())

    async def start(self) -> list[int]:
        """Start the broker; return the numbers of the entries that arrive, until the last one has arrived."""
        last = self.outbox.add({"number": -1})
        await self.broker.start(RecordingListener())
        await last
        await self.queue.acquire(30)
        entries = await self.queue.read(1000, 10**9)
        assert entries is not None
        return [orjson.loads(entry.payload)["number"] for entry in entries]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node without a queue."""
    node = Node()
    yield node
    node.task.cancel()
    await asyncio.wait([node.task])
    await node.broker.close()


async def test_entries_wait_for_the_queue(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries wait in order, and are appended in parts."""
    monkeypatch.setattr(module, "_BATCH", 7)
    monkeypatch.setattr(module, "_BATCH_BYTES", 100)
    for number in range(50):
        node.outbox.add({"number": number})
    assert await node.start() == [*range(50), -1]
    assert node.outbox.dropped == 0


@pytest.mark.parametrize(("name", "limit"), [("MAX_WAITING", 10), ("MAX_WAITING_BYTES", 1100)])
async def test_the_oldest_entries_are_dropped(
    node: Node, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    """Above the limit of entries or of bytes, the oldest are dropped and counted, and their futures cancelled."""
    monkeypatch.setattr(module, name, limit)
    futures = [node.outbox.add({"number": number, "text": "x" * 80}) for number in range(50)]
    kept = [number for number, future in enumerate(futures) if not future.cancelled()]
    assert kept == list(range(50 - len(kept), 50))
    assert 5 < len(kept) <= 10
    assert node.outbox.dropped == 50 - len(kept)
    arrived = await node.start()
    assert arrived[-6:] == [*range(45, 50), -1]


async def test_one_large_entry_is_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is larger than the limit waits if it is the only one."""
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 100)
    done = node.outbox.add({"number": 1, "text": "x" * 1000})
    await node.broker.start(RecordingListener())
    await done
    assert (await node.queue.info()).entries == 1
