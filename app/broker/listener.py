"""The interface by which a broker reports to its node. ``base`` exports it."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from .presence_types import UserId


class Listener(Protocol):
    """Receives what a broker reports to its node.

    The methods are called on the event loop, one at a time. They must not block and must not raise. All but
    ``wait_for_members`` are synchronous.
    """

    def on_event(self, room: str, id: str, payload: bytes) -> None:
        """Receive an event of a subscribed room.

        Called once for each event, in the room's order. The call may come before ``publish`` returns.
        """

    async def wait_for_members(self, room: str) -> None:
        """Let other coroutines run, and wait a moment if members of ``room`` cannot receive events that fast.

        Only the embedded broker calls this, within a publish, from time to time. It publishes faster than sockets
        accept, while a publish on a shared broker waits for a network anyway.
        """

    def on_resync(self, room: str, last_id: str) -> None:
        """Events of a subscribed room were lost permanently. ``last_id`` is the room's newest id."""

    def on_presence(self, room: str, user_id: UserId, username: str, has_joined: bool) -> None:
        """A user joined or left a subscribed room, according to ``Announcements``. Called on all nodes."""

    def on_broadcast(self, room: str, payload: bytes) -> None:
        """Receive a payload that a node has broadcast in a subscribed room.

        The call may come before ``broadcast`` returns.
        """

    def on_status(self, room: str, user_id: UserId, username: str, status: str) -> None:
        """The status of a user in a subscribed room has changed. Called on all nodes, perhaps with the same again."""

    def on_membership(self, room: str, user_id: UserId, username: str, has_joined: bool) -> asyncio.Future[Any]:
        """A user became a member of a room, or stopped to be one. Only for ``Announcements.followed_types``.

        Called on one node for each change, also if that node has not subscribed the room, and in rooms with more than
        ``Announcements.max_users``. A return within the grace is no change. The changes of one user in one room are
        reported in their order, and on another node only when the future is done. If the future is cancelled, or the
        node dies before that, the change is reported to another node.
        """

    def on_published(self, room: str, id: str, payload: bytes) -> asyncio.Future[Any]:
        """An event with ``is_followed`` was published.

        Called on the node that has published it. If the future is cancelled, or the node dies before it is done, the
        event is reported to another node, so it may be reported twice.
        """

    def on_signal(self, message: bytes) -> None:
        """Receive a message that a node sent to all nodes. The call may come before ``signal`` returns."""

    def on_question(self, question: bytes) -> bytes:
        """Return the answer to a question that a node sent to this one."""

    def on_signals_lost(self) -> None:
        """Signals may have been lost permanently: re-read the state whose changes they report."""
