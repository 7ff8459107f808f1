"""Decide whether a client may be in a room: the rule of the room's type, or the built-in one.

A rule says yes or no, or it fails. A failure is not a no: the client does not join, and may ask again; a member stays
for some time (see ``token_refresh``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from ..auth.room_access import RoomAccess
from ..context import Context
from ..declarations import Rule
from ..errors import InvalidEvent, Refused, RoomcastError, Unavailable, is_temporary
from ..failure_log import FailureLog
from ..plugin_host import PluginHost
from .client import Client
from .node import Node
from .plugin_times import PluginTimes

log = logging.getLogger("roomcast.access")


class JoinForbidden(RoomcastError):
    """The room's rule does not allow the client to be in the room. ``refused`` is the error for the client.

    With the code ``forbidden``, a join ends the connection with 4403 if ``FORBIDDEN_JOIN=close``.
    """

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused: Final = refused


class RoomRules:
    """Evaluates the rules of all room types."""

    def __init__(
        self, node: Node, hosts: Mapping[str, PluginHost], room_access: RoomAccess, times: PluginTimes
    ) -> None:
        """``hosts`` are those of all plugins, by their names. They may be added later."""
        self._registry: Final = node.registry
        #: The times of each rule, by room type.
        self._times: Final = {
            type: times.of(loaded.plugin.name, getattr(room.rule, "__name__", type))
            for loaded in node.registry
            for type, room in loaded.plugin.rooms.items()
            if room.rule is not None
        }
        self._counters: Final = node.counters
        #: How long a plugin's rule may take, in seconds.
        self._timeout: Final = node.settings.handler_timeout
        self._hosts: Final = hosts
        self._room_access: Final = room_access
        self._failures: Final = FailureLog(log)

    async def check(self, client: Client, room: str) -> None:
        """Raise an exception unless the rule of the room's type allows the client to join.

        Raises:
            JoinForbidden: The rule says no.
            Refused: There is no decision, and a plugin's rule gave a temporary error code.
            Unavailable: There is no decision, because the rule failed.
        """
        kind = self._registry.room(room)
        if kind.type == "user":
            raise _forbidden(_personal_room_sentence(room, is_own=room == client.personal_room))
        if kind.rule is not None:
            allowed = await self._evaluate(kind.rule, client, room)
        else:
            decided = self._room_access.decide(client.identity, room)
            allowed = decided if decided is not None else await self._room_access.allows(client.identity, room)
        if allowed is not True:
            raise _forbidden(f"You have no access to {room}.")

    async def _evaluate(self, rule: Rule, client: Client, room: str) -> bool:
        """Return the decision of a plugin's rule. Raises the exceptions of ``check``."""
        type, _, entity_id = room.partition(":")
        host = self._hosts[self._registry.owner("room type", type)]
        try:
            async with asyncio.timeout(self._timeout) as timeout:
                allowed = await self._times[type].run(rule, Context(host, client, room), entity_id)
            # A rule may suppress its cancellation and decide later. The client got an answer, so it must not join then.
            if timeout.expired():
                raise TimeoutError
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            if allowed is None or isinstance(allowed, bool):
                return allowed is True
            raise TypeError(f"the rule returned a {allowed.__class__.__name__}, not True or False")
        except InvalidEvent as error:  # an event that the rule published; that is a fault of the plugin
            self._count_failure(type, f"The rule of {type} rooms failed", error)
        except Refused as refused:
            if is_temporary(refused.code):
                raise
            raise JoinForbidden(refused) from None
        except Unavailable as unavailable:
            self._count_failure(type, f"The rule of {type} rooms cannot decide: {unavailable.detail}", None)
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._count_failure(type, f"The rule of {type} rooms awaited a cancelled task", error)
        except Exception as error:
            if timeout.expired():
                self._count_failure(type, f"The rule of {type} rooms took over {self._timeout:g} s", error)
            else:
                self._count_failure(type, f"The rule of {type} rooms failed", error)
        raise Unavailable(f"The access check of {room} failed.")

    def _count_failure(self, room_type: str, text: str, error: BaseException | None) -> None:
        self._counters.failed_rules += 1
        self._failures.add(f"{room_type} {error.__class__.__name__}", text, error)

    def has_plugin_rule(self, room: str) -> bool:
        """Return True if a plugin's rule decides about ``room``."""
        return self._registry.room(room).rule is not None

    def claims_forbid(self, client: Client, room: str) -> bool:
        """Return True if the built-in rule refuses ``room`` without asking the URL of ``ROOM_ACCESS``."""
        return self._room_access.decide(client.identity, room) is False


def _forbidden(sentence: str) -> JoinForbidden:
    return JoinForbidden(Refused("forbidden", sentence))


def _personal_room_sentence(room: str, *, is_own: bool) -> str:
    if is_own:
        return f"You are in your own room, {room}, from the start; it cannot be joined."
    return f"{room} is another user's own room and cannot be joined. You receive your own events without a join."
