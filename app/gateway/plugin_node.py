"""The part of a node that each plugin reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..auth.room_access import RoomAccess
from ..broker.base import Broker
from ..plugin_host import MetricSource
from ..plugin_state import State
from .delivery import Delivery
from .direct_events import DirectEvents
from .history_limit import LimitedHistory
from .live_events import LiveEvents
from .plugin_tasks import PluginTasks
from .publishing import Publishing
from .signals import Signals
from .threads import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginNode:
    """One plugin on one node: the implementation of ``plugin_host.PluginHost``.

    ``name``, ``settings``, ``state`` and ``threads`` belong to the plugin, the other objects to all plugins of the
    node.
    """

    name: str
    settings: Any
    state: State
    metric_sources: list[tuple[str, MetricSource]]
    node_id: str
    broker: Broker
    history: LimitedHistory
    publishing: Publishing
    live_events: LiveEvents
    direct_events: DirectEvents
    delivery: Delivery
    room_access: RoomAccess
    threads: Threads
    tasks: PluginTasks
    control: Signals
