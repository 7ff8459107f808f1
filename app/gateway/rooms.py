"""Join and leave rooms.

A membership has four parts: the room's name in ``Client.rooms``, the client among the room's members in ``Delivery``,
the node's subscription, and the presence at the broker. This module changes them, except that ``resume`` takes a client
out of ``Delivery`` while it sends pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from ..errors import TOO_SLOW, Refused
from ..protocol import messages
from ..protocol.messages import Request
from .audit_log import log_user_event
from .client import Client
from .hooks import Hooks
from .join_options import PLAIN, JoinOptions, joined_data, joined_response, parse_options
from .live_events import LiveEvents
from .node import Node
from .presence import Presence
from .resume import Resume
from .rules import JoinForbidden, RoomRules
from .subscriptions import NodeSubscriptions
from .unread import Unread

log = logging.getLogger("roomcast")


class Rooms:
    """The memberships of one node's clients."""

    def __init__(
        self,
        node: Node,
        rules: RoomRules,
        presence: Presence,
        resume: Resume,
        live_events: LiveEvents,
        unread: Unread,
        hooks: Hooks,
    ) -> None:
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._tasks: Final = node.tasks
        self._max_unread: Final = node.settings.ws_max_buffer
        self._max_rooms: Final = node.settings.max_rooms_per_connection
        self._rules: Final = rules
        self._presence: Final = presence
        self._resume: Final = resume
        self._live_events: Final = live_events
        self._unread: Final = unread
        self._follows_users: Final = hooks.follows_users
        self.subscriptions: Final = NodeSubscriptions(node.broker, node.delivery)

    def join_personal(self, client: Client) -> None:
        """Add the client to its user's personal room, to which the node is subscribed already."""
        room = client.personal_room
        self.subscriptions.confirm(room)
        self._delivery.join_personal(room, client)
        if self._follows_users:
            self._tasks.start_departure(self._presence.enter_personal(client))

    async def join(self, client: Client, request: Request) -> None:
        """Add the client to the room, reply ``joined_room``, send the history it asks for, and record its presence.

        If the client is a member already, only reply and send the history. A member that the rule forbids to join
        leaves the room.
        """
        room = request.room
        if room is None:
            raise messages.bad_room(None)
        options = parse_options(request)
        try:
            await self._rules.check(client, room)
        except JoinForbidden:
            if room in client.rooms:  # with FORBIDDEN_JOIN=keep the client stays connected
                await self.remove(client, room, f"You have no access to room {room} any more")
            raise
        await self._enter(client, request, room, options)

    async def add(self, client: Client, room: str) -> None:
        """Add the client to the room without asking the rule, and send it ``joined_room``, unless it is a member.

        A client that is in too many rooms is not added.
        """
        if room in client.rooms or client.end is not None:
            return
        try:
            await self._enter(client, Request("join_room", room), room, PLAIN)
        except Refused as refused:
            log_user_event(f"not added to {room} by a plugin", client, refused.message)

    async def _enter(self, client: Client, request: Request, room: str, options: JoinOptions) -> None:
        """Make the client, which may join the room, a member, and reply to ``request``."""
        if not self._delivery.has(room, client) and len(client.rooms) >= self._max_rooms:
            raise Refused(
                "too_many_rooms", f"This connection is in {self._max_rooms} rooms, the most allowed; leave one."
            )
        await self.subscriptions.acquire(room)
        recording = self._presence.start_recording(room) if options.presence else None
        try:
            response = await self._respond(client, request, room, options)
        except BaseException:
            await self.subscriptions.release(room)
            raise
        finally:
            announced = b"" if recording is None else self._presence.end_recording(room, recording)
        if announced:
            if len(announced) > self._max_unread:  # the client has read its pages that slowly
                client.close(TOO_SLOW)
            response += announced
        # From here until the client is a member nothing may wait. The history that was read and the listener are at the
        # same event now, so that later events arrive live and no event arrives twice.
        if client.end is not None:
            await self.subscriptions.release(room)
            return
        self.subscriptions.confirm(room)
        is_new = room not in client.rooms  # a member may have been kicked meanwhile
        if is_new or options.reads_history:  # other members keep their pending frames
            self._delivery.join(room, client)
        self._delivery.send(client, response)
        if is_new:
            client.rooms = (*client.rooms, room)
            await _finish(self._presence.enter(client, room))

    async def _respond(self, client: Client, request: Request, room: str, options: JoinOptions) -> bytes:
        """Return the frames to send next: ``joined_room``, and the events of the history that the client asks for.

        This is the one place that assembles the data of ``joined_room``. Add fields that are read from the broker
        before the history is read, because nothing may wait after that.
        """
        data = joined_data(room)
        if options.presence:
            await self._presence.add_members(client, room, data)
        unread = await self._unread.prepare(client, room)
        if options.reads_history:
            self._unread.start_delay(client, room)
            try:
                response = await self._resume.respond(client, request, room, options, data, unread)
            finally:
                marked = self._unread.end_delay(client, room)
            return response + marked
        if unread is not None:
            self._delivery.send_pending(room, client)  # of a client that is a member: unread includes these
            unread.add_to(data)
        return joined_response(request, data)

    async def leave(self, client: Client, request: Request) -> None:
        """Remove the client from the room and reply ``left_room``, also if it is not a member."""
        room = request.room
        if room is None:
            raise messages.bad_room(None)
        messages.refuse_other_fields(request)
        if room == client.personal_room:
            raise Refused("bad_room", f"{room} is your own room; you are in it for as long as you are connected.")
        await _finish(self.remove(client, room, f"Left room {room}", request.id))

    async def remove(self, client: Client, room: str, message: str, id: str | int | None = None) -> None:
        """Remove the client from the room, send it ``left_room`` with ``message``, and record its departure."""
        is_unused = self._delivery.leave(room, client)
        client.send_json(messages.reply("left_room", {"message": message}, room=room, id=id))
        if room in client.rooms:
            client.rooms = tuple(one for one in client.rooms if one != room)
            self._live_events.left(client, room)
            await self._after_leave(client, room, is_unused, is_lost=False)

    def depart(self, client: Client) -> None:
        """Begin to remove a client from all its rooms, unless that has begun.

        Does nothing while commands of the client are running. ``Commands`` calls this again when they are done.
        """
        if not client.has_departed and client.queued is None and not client.in_flight:
            client.has_departed = True
            self._tasks.start_departure(self._depart(client))

    async def _depart(self, client: Client) -> None:
        """Remove the client from all its rooms and release its lease."""
        rooms, client.rooms = client.rooms, ()
        # The local state first, so that nothing is written to a client that has ended, even if the broker fails.
        left = [(room, self._delivery.leave(room, client)) for room in rooms]
        is_last = self._delivery.leave_personal(client.personal_room, client)
        for room in rooms:
            self._live_events.left(client, room)
        if client.end is TOO_SLOW:
            for room in (*rooms, client.personal_room):
                self._delivery.types.of(room).slow_members += 1
        try:
            for room, is_unused in left:
                await self._after_leave(client, room, is_unused, is_lost=True)
            if self._follows_users:
                await self._presence.leave_personal(client)
            if is_last:
                await self.subscriptions.drop_if_unused(client.personal_room)
        finally:
            await self._broker.release(client.identity.user_id, client.id)

    async def _after_leave(self, client: Client, room: str, is_unused: bool, *, is_lost: bool) -> None:
        """Update the broker after the client left ``room``.

        ``is_unused`` is True if the room has no members on this node any more. ``is_lost`` is as for ``Broker.leave``.
        """
        try:
            await self._presence.leave(client, room, is_lost=is_lost)
        finally:
            if is_unused:
                await self.subscriptions.drop_if_unused(room)


async def _finish(rest: Coroutine[Any, Any, None]) -> None:
    """Await the ``rest`` of a command that was replied to. If it is cancelled, the reply is still correct: only log."""
    try:
        await rest
    except asyncio.CancelledError:
        log.warning("The broker took too long over a join or leave; it may not be announced")
