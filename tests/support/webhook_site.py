"""A delivery of webhooks with a queue of the embedded broker, and a real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio
from broker_contract import RecordingListener
from webhook_receiver import SECRET, WebhookReceiver

from roomcast.broker.memory import MemoryBroker
from roomcast.broker.queue import QueueLimits
from roomcast.errors import Unavailable
from roomcast.plugins.webhook.delivery import Delivery
from roomcast.plugins.webhook.events import TYPES
from roomcast.plugins.webhook.outbox import Outbox
from roomcast.plugins.webhook.sender import Sender
from roomcast.plugins.webhook.timing import Timing

FAST = Timing(lease=2.0, poll=0.05, read=0.05, reorder=0.05, compare=0.2, settle=0.3, gone=0.5, retry=60.0)


class FakeService:
    """The rooms that have members, and those whose server cannot be reached, as tests set them.

    ``fault`` is raised once.
    """

    def __init__(self) -> None:
        self.rooms: set[str] = set()
        self.unreachable: set[str] = set()
        self.fault: Exception | None = None

    async def is_occupied(self, room: str) -> bool:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if room in self.unreachable:
            raise Unavailable("The server of the room cannot be reached.")
        return room in self.rooms

    async def occupied_rooms(self) -> set[str]:
        return set(self.rooms)


class Site:
    """A delivery, what it reads, and the receiver."""

    def __init__(self, receiver: WebhookReceiver, broker: MemoryBroker) -> None:
        self.receiver = receiver
        self.service = FakeService()
        self.queue = broker.queue("webhooks")
        self.outbox = Outbox(self.queue)
        self.stack = AsyncExitStack()

    async def start(
        self,
        timing: Timing = FAST,
        types: frozenset[str] = frozenset(TYPES),
        wait: float = 1.0,
        url: str | None = None,
    ) -> None:
        """Start to deliver."""
        sender = Sender(url or self.receiver.url, [SECRET], wait)
        self.stack.push_async_callback(sender.close)
        self.delivery = Delivery(self.service, self.queue, self.outbox, sender, types, timing)  # type: ignore[arg-type]
        self.tasks = [asyncio.create_task(work) for work in (self.outbox.run(), self.delivery.run())]

    async def stop(self) -> None:
        """Stop to deliver."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.stack.aclose()

    def change(self, room: str, *, is_present: bool) -> None:
        """Let a room have members or none, and report it, as a hook does."""
        (self.service.rooms.add if is_present else self.service.rooms.discard)(room)
        self.outbox.check(room)

    def publish(self, room: str, offset: int, *, epoch: str = "e", **data: Any) -> asyncio.Future[None]:
        """Report a published event, as a hook does."""
        return self.outbox.add({"event": event(room, offset, epoch=epoch, **data)})


def event(room: str, offset: int, *, epoch: str = "e", **data: Any) -> dict[str, Any]:
    """Return the frame of an event."""
    return {"type": "t", "room": room, "data": data, "timestamp": "2026-11-30T00:00:00Z", "id": f"{epoch}-{offset}"}


Start = Callable[..., Awaitable[Site]]


@pytest_asyncio.fixture
async def start(webhook_receiver: WebhookReceiver) -> AsyncIterator[Start]:
    """``await start()`` starts a delivery to the receiver."""
    broker = MemoryBroker(queue_limits=QueueLimits(1000, 10**6, 100))
    await broker.start(RecordingListener())
    site = Site(webhook_receiver, broker)

    async def start_(**options: Any) -> Site:
        await site.start(**options)
        return site

    yield start_
    await site.stop()
    await broker.close()
