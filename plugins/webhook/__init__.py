"""Webhooks: tell a backend which users are online, which rooms have members, and which events are published.

The hooks append to a queue, and one node delivers what is in the queue:

- ``outbox.py`` appends; ``reader.py`` reads and ``delivery.py`` sends, on the node with the lease;
- ``lanes.py`` keeps the order and repeats, ``states.py`` knows what the receiver was told;
- ``sender.py`` signs and posts, ``events.py`` has the events, ``settings.py`` the settings;
- ``dead_letters.py`` has the routes for operators.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from roomcast import MemberContext, Plugin, Service, personal_room

from . import dead_letters
from .delivery import Delivery
from .metrics import Metrics
from .outbox import Outbox
from .sender import Sender
from .settings import WebhookSettings
from .timing import Timing

webhook = Plugin("webhook", "Webhooks about users, rooms and events", settings=WebhookSettings)

#: The name of the queue.
QUEUE = "webhook"
#: How long the stop waits until what this node has not appended yet is in the queue, in seconds.
_FINISH_TIMEOUT = 2.0


def sends(*types: str) -> Callable[[WebhookSettings], bool]:
    """Return the condition that one of ``types`` is sent."""
    return lambda settings: settings.url is not None and any(type in settings.events for type in types)


@webhook.on_online
@webhook.only_if(sends("user.online", "user.offline"))
async def came_online(service: Service[WebhookSettings], user_id: int | str) -> None:
    """Report a user who came online."""
    service.state.outbox.check(personal_room(user_id))


@webhook.on_offline
@webhook.only_if(sends("user.online", "user.offline"))
async def went_offline(service: Service[WebhookSettings], user_id: int | str) -> None:
    """Report a user who went offline."""
    service.state.outbox.check(personal_room(user_id))


@webhook.on_join("*")
@webhook.only_if(sends("room.occupied", "room.vacated"))
async def joined(ctx: MemberContext) -> None:
    """Report a room that may have its first member."""
    ctx.state.outbox.check(ctx.room)


@webhook.on_leave("*")
@webhook.only_if(sends("room.occupied", "room.vacated"))
async def left(ctx: MemberContext) -> None:
    """Report a room that may have lost its last member."""
    ctx.state.outbox.check(ctx.room)


@webhook.after_publish("*")
@webhook.only_if(sends("event.published"))
async def published(service: Service[WebhookSettings], event: dict[str, Any]) -> None:
    """Report a published event."""
    await service.state.outbox.add({"event": event})


dead_letters.add_routes(webhook, QUEUE)


@webhook.lifespan
async def deliver(service: Service[WebhookSettings]) -> AsyncIterator[None]:
    """Deliver while the node runs, if there is a URL."""
    settings = service.settings
    if settings.url is None:
        yield
        return
    queue = service.queue(QUEUE)
    outbox = service.state.outbox = Outbox(queue)
    sender = Sender(settings.url, settings.secret, settings.timeout)
    delivery = Delivery(service, queue, outbox, sender, frozenset(settings.events), Timing(retry=settings.retry_time))
    metrics = Metrics(delivery, outbox, queue)
    service.report_metrics(metrics.collect)
    tasks = [asyncio.create_task(work) for work in (outbox.run(), delivery.run(), metrics.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_TIMEOUT):
                await outbox.finish()
        await sender.close()
