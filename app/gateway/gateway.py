"""Create the parts of one node, and start and stop them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from ..auth.identity import Authenticator
from ..auth.revocation import Revocations
from ..auth.room_access import RoomAccess
from ..broker.base import Broker
from ..builtin_events import builtin
from ..errors import SERVICE_RESTART
from ..failure_log import report_uncounted
from ..plugin_host import MetricSource
from ..plugin_state import State
from ..registry import Registry
from ..service import Service
from ..settings import Settings
from .broker_options import announcements
from .commands import Commands
from .direct_events import DirectEvents
from .history_command import HistoryCommand
from .history_limit import LimitedHistory
from .hooks import Hooks
from .lifespans import Lifespans
from .listener import BrokerListener
from .live_events import LiveEvents
from .node import Node
from .plugin_commands import plugin_commands
from .plugin_node import PluginNode
from .plugin_tasks import PluginTasks
from .plugin_times import PluginTimes
from .presence import Presence
from .presence_commands import PresenceCommands
from .probes import Probes
from .publishing import Publishing
from .resume import Resume
from .rooms import Rooms
from .rules import RoomRules
from .schedule import Schedule
from .sessions import Sessions
from .signals import Signals
from .threads import Threads
from .token_refresh import TokenRefresh
from .unread import Unread
from .user_status import UserStatuses
from .watchdog import Watchdog

log = logging.getLogger("roomcast")

#: How long ``close`` waits until all clients have left their rooms at the broker, in seconds. The leases of those that
#: have not left by then expire.
_DEPARTURE_TIMEOUT: Final = 2.0


class Gateway:
    """One node. Create it on a running event loop and call ``start``.

    It owns the parts below and the broker. ``web`` uses ``sessions`` to admit clients, ``publishing``,
    ``signals`` and ``user_status`` for the HTTP API, ``counters`` and ``delivery`` for the metrics. Plugins use
    ``services``.
    """

    def __init__(
        self, settings: Settings, registry: Registry, broker: Broker, states: Mapping[str, State] | None = None
    ) -> None:
        """``states`` are existing states of plugins, by their names. Other plugins get an empty one."""
        states = states or {}
        plugin_settings = registry.plugin_settings(settings)
        registry.activate(settings)
        node = Node.create(settings, registry, broker)
        self.settings = settings
        self.registry: Final = registry
        self.broker: Final = broker
        self.delivery: Final = node.delivery
        self.keepalive: Final = node.keepalive
        self.tasks: Final = node.tasks
        self.counters: Final = node.counters
        self.authenticator: Final = Authenticator(settings)
        self.revocations: Final = Revocations(broker, settings.revocation_ttl)
        self.room_access: Final = RoomAccess(settings)
        #: The threads of each plugin, by their names. A plugin whose functions hang takes none of the others.
        self.threads: Final = {name: Threads(node.loop, settings.handler_timeout) for name in registry.plugins}
        self.plugin_times: Final = PluginTimes(settings.handler_timeout)
        hosts: dict[str, PluginNode] = {}
        #: What returns the metrics of a plugin, with the name of the plugin.
        self.metric_sources: Final[list[tuple[str, MetricSource]]] = []
        self.hooks: Final = Hooks(node, hosts, self.plugin_times)
        self.publishing: Final = Publishing(node, self.hooks)
        self.watchdog: Final = Watchdog(registry)
        rules = RoomRules(node, hosts, self.room_access, self.plugin_times)
        self.history: Final = LimitedHistory(node)
        presence = Presence(node, self.history)
        resume = Resume(node, self.history)
        unread = Unread(node)
        self.live_events: Final = LiveEvents(node)
        self.rooms: Final = Rooms(node, rules, presence, resume, self.live_events, unread, self.hooks)
        self.token_refresh: Final = TokenRefresh(node, self.authenticator, self.revocations, self.rooms, rules)
        probes = Probes(node)
        self.signals: Final = Signals(node, self.rooms, self.revocations, probes)
        self.user_status: Final = UserStatuses(node)
        direct_events = DirectEvents(node)
        self.listener: Final = BrokerListener(
            node, presence, self.signals, self.user_status, unread, direct_events, self.hooks
        )
        plugin_tasks = PluginTasks(node.loop)
        for name in registry.plugins:
            hosts[name] = PluginNode(
                name=name,
                settings=plugin_settings.get(name),
                state=states.get(name) or State(name),
                metric_sources=self.metric_sources,
                node_id=node.id,
                broker=broker,
                history=self.history,
                publishing=self.publishing,
                live_events=self.live_events,
                direct_events=direct_events,
                delivery=node.delivery,
                room_access=self.room_access,
                threads=self.threads[name],
                tasks=plugin_tasks,
                control=self.signals,
            )
        #: The services of all plugins, by their names.
        self.services: Final[dict[str, Service]] = {name: Service(host) for name, host in hosts.items()}
        self.lifespans: Final = Lifespans(self.services, plugin_tasks, settings.lifespan_timeout)
        self.schedule: Final = Schedule(node, plugin_tasks, self.services, self.plugin_times)
        presence_commands = PresenceCommands(node, presence)
        commands = {
            "refresh_token": self.token_refresh.refresh,
            "history": HistoryCommand(node, self.history).read,
            "mark_read": unread.mark_read,
            "members": presence_commands.members,
            "set_presence": presence_commands.set_presence,
        }
        declared = plugin_commands(registry, self.hooks, self.plugin_times)
        self.commands: Final = Commands(node, hosts, self.rooms, commands, declared)
        self.sessions: Final = Sessions(node, self.commands, self.rooms, resume, self.revocations, probes, self.hooks)
        #: True from the beginning of the shutdown. The node may still serve, and reports that it is not ready.
        self.is_stopping = False
        self._loop: Final = node.loop
        self._stack: Final = AsyncExitStack()

    @property
    def service(self) -> Service:
        """The service of roomcast itself."""
        return self.services[builtin.name]

    @property
    def is_draining(self) -> bool:
        """True once the node closes its connections, and refuses new ones."""
        return self.commands.is_stopping

    def use_keys(self, settings: Settings) -> None:
        """Use the keys in ``settings`` from now on, which otherwise equal the current settings.

        Connections stay open, even if their token was signed with a key that is no longer accepted.
        """
        self.authenticator.use_keys(settings)
        self.room_access.use_keys(settings)
        self.settings = settings

    async def start(self) -> None:
        """Start the broker, the room access rule, the plugins' lifespans and the keepalive task.

        If one of them fails, stop the others and raise its error.
        """
        try:
            self._stack.callback(self.watchdog.stop)
            self.watchdog.start()
            self._stack.callback(self.tasks.close)
            for threads in self.threads.values():
                self._stack.callback(threads.close)
            self._stack.push_async_callback(self.broker.close)
            await self.broker.start(self.listener, announcements(self.settings, self.registry))
            self._stack.push_async_callback(self.room_access.close)
            await self.room_access.start()
            self._stack.push_async_callback(self.lifespans.stop)
            await self.lifespans.start(self.registry)
            self.schedule.start(self.registry)
            self._stack.push_async_callback(self.hooks.cancel)
            self._stack.push_async_callback(self.tasks.cancel)
            self._stack.push_async_callback(self.commands.cancel)
            self.tasks.spawn(self.keepalive.run(self._after_check))
        except BaseException:
            await self._stack.aclose()
            raise

    async def _after_check(self) -> None:
        """Do the periodic work of commands, of the log and of the broker, about once a second."""
        await self.commands.cancel_overdue()
        report_uncounted()
        try:
            await self.broker.announce_due()
        except Exception:  # this runs in the task that checks all connections
            log.exception("Joins and leaves could not be announced; it is tried again")

    async def drain(self) -> None:
        """Close every connection with 1012, spread over ``DRAIN_SECONDS`` to avoid a reconnect storm."""
        self.is_stopping = self.commands.is_stopping = True
        connections = list(self.keepalive.connections)
        pause = self.settings.drain_seconds / max(len(connections), 1)
        begun = self._loop.time()
        for number, connection in enumerate(connections):
            delay = begun + number * pause - self._loop.time()
            if delay > 0.01:
                await asyncio.sleep(delay)
            connection.close(SERVICE_RESTART)

    async def close(self) -> None:
        """Drop all remaining connections, and stop everything that ``start`` started."""
        self.commands.is_stopping = True
        for connection in list(self.keepalive.connections):
            connection.abort(SERVICE_RESTART)
        await self._wait_for_departures()
        await self.hooks.finish()
        await self._stack.aclose()
        report_uncounted(is_last=True)

    async def _wait_for_departures(self) -> None:
        """Wait until all clients have left their rooms at the broker, for at most ``_DEPARTURE_TIMEOUT``."""
        deadline = self._loop.time() + _DEPARTURE_TIMEOUT
        while (self.keepalive.connections or self.tasks.has_departures) and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
