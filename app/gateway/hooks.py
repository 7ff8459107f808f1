"""Call the hooks of plugins when something happens on this node, or when the broker reports it to this node.

The broker decides which node calls the hooks for joins, leaves and published events, because all nodes together call
them once. See ``Listener.on_membership`` and ``Listener.on_published`` in ``broker.base``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from ..broker.base import Event, Publication, UserId
from ..context import Context, for_hook
from ..errors import Refused
from ..failure_log import FailureLog
from ..member_context import MemberContext
from ..plugin_hooks import Hook, HookKind
from ..plugin_host import PluginHost
from ..protocol import messages
from ..protocol.user_id import personal_room
from ..service import Service
from ..stored_events import decode
from .client import Client
from .hook_calls import HookCalls
from .node import Node
from .ordered_tasks import OrderedTasks
from .plugin_times import PluginTimes

log = logging.getLogger("roomcast.hooks")

#: How many calls of an ``after_publish`` function may run or wait on a node. Further events are not passed to it.
MAX_WAITING: Final = 10_000
#: How many joins and leaves of one user in one room wait for their hooks. Beyond that, a leave and the next join cancel
#: each other. On Redis, only one waits here, and the others there (``lua/presence.lua``).
MAX_CHANGES: Final = 16
#: How long ``finish`` waits for hooks that run, in seconds.
_FINISH_TIMEOUT: Final = 5.0

Source = Literal["client", "plugin", "api"]


class Hooks:
    """The hooks of one node, except those of commands (see ``plugin_commands``)."""

    def __init__(self, node: Node, hosts: Mapping[str, PluginHost], times: PluginTimes) -> None:
        """``hosts`` are those of all plugins, by their names. They may be added later."""
        registry = node.registry
        self._registry: Final = registry
        self._broker: Final = node.broker
        self._hosts: Final = hosts
        self._times: Final = times
        self.calls: Final = HookCalls(node.loop, times, node.settings.handler_timeout)
        self._tasks: Final = OrderedTasks(node.loop)
        self._on_connect: Final = registry.hooks_of("on_connect")
        self._on_disconnect: Final = registry.hooks_of("on_disconnect")
        self._before_publish: Final = self._by_target("before_publish")
        self._after_publish: Final = self._by_target("after_publish")
        #: The calls of ``after_publish`` hooks, by plugin and function, so that a slow one takes no place of others.
        self._after: Final = {
            (hook.plugin, hook.name): OrderedTasks(node.loop)
            for hooks in self._after_publish.values()
            for hook in hooks
        }
        self._online: Final = {True: registry.hooks_of("on_online"), False: registry.hooks_of("on_offline")}
        self._members: Final = {True: self._by_target("on_join"), False: self._by_target("on_leave")}
        for hook in registry.hooks:
            times.of(hook.plugin, hook.name)  # the metrics have all hooks from the start
        self._overflows: Final = FailureLog(log)
        #: Whether there are hooks for connections, and for the online status of users.
        self.follows_connections: Final = bool(self._on_connect or self._on_disconnect)
        self.follows_users: Final = any(self._online.values())
        #: Whether there are hooks for published events.
        self.follows_events: Final = bool(self._before_publish or self._after_publish)

    def _by_target(self, kind: HookKind) -> dict[str, tuple[Hook, ...]]:
        targets = {hook.target for hook in self._registry.hooks if hook.kind == kind}
        return {target: self._registry.hooks_of(kind, target) for target in targets}

    def _service(self, hook: Hook) -> Service:
        return Service(self._hosts[hook.plugin])

    def for_hook(self, hook: Hook, context: Context) -> Context:
        """Return the context of a command for one of its hooks."""
        return for_hook(context, self._hosts[hook.plugin], f"{hook.plugin}.{hook.name}")

    # Connections.

    def opened(self, client: Client) -> None:
        """Call the hooks for a new connection."""
        self._follow(client, self._on_connect)

    def ended(self, client: Client) -> None:
        """Call the hooks for a connection that has ended, after those of the same plugin for its beginning."""
        self._follow(client, self._on_disconnect)

    def _follow(self, client: Client, hooks: tuple[Hook, ...]) -> None:
        for hook in hooks:
            context: Context = Context(self._hosts[hook.plugin], client, None)
            self._tasks.start((hook.plugin, client), self.calls.notify, hook, context)

    # Users.

    def member_changed(self, room: str, user_id: UserId, username: str, has_joined: bool) -> asyncio.Future[Any]:
        """Call the hooks for a user who has joined or left a room; see ``Listener.on_membership``.

        The members of a personal room tell if its user is online. The changes of one user in one room are handled one
        after the other.
        """
        key = (room, user_id)
        if self._tasks.drop_last(key, MAX_CHANGES):  # the last one is the opposite of this one
            cancelled_out: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            cancelled_out.set_result(None)
            return cancelled_out
        return self._tasks.start(key, self._call_for_member, room, user_id, username, has_joined)

    async def _call_for_member(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        started = []
        if room == personal_room(user_id):
            for hook in self._online[has_joined]:
                key = (hook.plugin, room, user_id)
                started.append(self._tasks.start(key, self.calls.notify, hook, self._service(hook), user_id))
        else:
            for hook in self._members[has_joined].get(room.partition(":")[0], ()):
                context = MemberContext(self._hosts[hook.plugin], room, user_id, username)
                started.append(self._tasks.start((hook.plugin, room, user_id), self.calls.notify, hook, context))
        await asyncio.gather(*started)

    # Events.

    def follows(self, type: str) -> bool:
        """Return True if there are hooks to call after an event of this type was published."""
        return type in self._after_publish

    async def before_publish(self, publication: Publication, source: Source) -> Publication:
        """Call the hooks before an event is published, and return what to publish.

        Raises ``Refused`` if one refuses, and ``Unavailable`` if one fails.
        """
        document = orjson.loads(publication.payload)
        type, room = document["type"], publication.room
        data = document["data"]
        hooks = self._before_publish.get(type, ())
        for hook in hooks:
            event = {
                "type": type,
                "room": room,
                "data": data,
                "sender": document.get("sender"),
                "user_id": publication.author,
                "source": source,
            }
            changed = await self.calls.decide(hook, type, self._service(hook), event)
            if changed is None:
                # The hook may have changed its argument in place, which changes nothing.
                data = orjson.loads(publication.payload)["data"]
                continue
            try:
                body = self._registry.stored_event(type).validator.event(changed)
                shown = (document.get("room"), body, document.get("sender"), document.get("key"))
                payload = messages.event(type, *shown)
            except (Refused, TypeError) as error:
                self.calls.failed(hook, type, ValueError(f"it returned data that the event's schema refuses: {error}"))
            publication = publication._replace(payload=payload)
            data = orjson.loads(payload)["data"]
        return publication._replace(is_followed=self.follows(type))

    def published(self, room: str, id: str, payload: bytes) -> asyncio.Future[Any]:
        """Call the hooks after an event was published; see ``Listener.on_published``."""
        event = decode(Event(id, payload))
        type = event["type"]
        event["room"] = room
        started: list[asyncio.Future[None]] = []
        for hook in self._after_publish.get(type, ()):
            tasks = self._after[hook.plugin, hook.name]
            if tasks.count >= MAX_WAITING:
                self._times.of(hook.plugin, hook.name).errors += 1
                self._overflows.add(str(hook), f"The {hook} is too slow: {MAX_WAITING} events wait; it gets no others")
                continue
            own = orjson.loads(orjson.dumps(event)) if started else event
            started.append(tasks.start(room, self.calls.notify, hook, self._service(hook), own))
        return asyncio.gather(*started)

    # Lifecycle.

    async def finish(self) -> None:
        """Wait a moment for the hooks that run."""
        await asyncio.gather(*(tasks.finish(_FINISH_TIMEOUT) for tasks in (self._tasks, *self._after.values())))

    async def cancel(self) -> None:
        """Cancel the hooks that run, and drop those that wait. The broker passes them to another node."""
        await asyncio.gather(*(tasks.cancel() for tasks in (self._tasks, *self._after.values())))
