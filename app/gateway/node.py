"""The objects that all parts of the gateway share."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from ..broker.base import Broker
from ..registry import Registry
from ..settings import Settings
from ..transport.keepalive import Keepalive
from .counters import Counters
from .delivery import Delivery
from .room_type import LocalRoomTypes
from .tasks import BackgroundTasks


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its configuration, its broker, and the objects that exist once on its event loop."""

    #: Unique over all nodes, and new with each start.
    id: str
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
        """Return a node on the running event loop. Raises ``SettingsError`` if an option of a room type is wrong."""
        loop = asyncio.get_running_loop()
        keepalive = Keepalive(
            loop, settings.ws_heartbeat_interval, settings.ws_max_message_size, settings.ws_max_buffer
        )
        delivery = Delivery(loop, LocalRoomTypes(registry.room_options(settings)))
        return cls(
            secrets.token_hex(8),
            settings,
            registry,
            broker,
            loop,
            delivery,
            keepalive,
            BackgroundTasks(loop),
            Counters(),
        )
