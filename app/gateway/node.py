"""The objects that all parts of the gateway share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..broker.base import Broker
from ..registry import Registry
from ..settings import Settings
from ..transport.keepalive import Keepalive
from .counters import Counters
from .delivery import Delivery
from .tasks import BackgroundTasks


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its configuration, its broker, and the objects that exist once on its event loop."""

    settings: Settings
    registry: Registry
    broker: Broker
    loop: asyncio.AbstractEventLoop
    delivery: Delivery
    keepalive: Keepalive
    tasks: BackgroundTasks
    counters: Counters

    @classmethod
    def create(cls, settings: Settings, registry: Registry, broker: Broker) -> Node:
        """Return a node on the running event loop."""
        loop = asyncio.get_running_loop()
        keepalive = Keepalive(
            loop, settings.ws_heartbeat_interval, settings.ws_max_message_size, settings.ws_max_buffer
        )
        return cls(settings, registry, broker, loop, Delivery(loop), keepalive, BackgroundTasks(loop), Counters())
