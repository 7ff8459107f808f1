"""Who may be in which room, and what coming and going means: rules, resume, presence, announcements."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from . import frames, protocol
from .client import Client
from .context import Context
from .core import UserJoined, UserLeft
from .errors import INTERNAL_ERROR, TOO_SLOW, Refused, RoomcastError, Unavailable
from .protocol import Request

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .broker import History, Member
    from .gateway import Gateway
    from .identity import Identity

log = logging.getLogger("roomcast")

#: What a frame has at most besides an event's payload and id.
_FRAMING: Final = 20
#: How long to wait before looking again whether a client has taken its portion, in seconds.
_PAUSE: Final = 0.01


class Forbidden(RoomcastError):
    """A join that the room's rule does not allow; the connection may have to end with 4403."""

    def __init__(self, room: str, message: str | None = None) -> None:
        super().__init__(room)
        self.refused: Final = Refused("forbidden", message or f"You have no access to {room}.")


class Membership:
    """Joins and leaves of one node's clients."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Final = gateway
        self._hub: Final = gateway.hub
        self._broker: Final = gateway.broker
        self._most_rooms: Final = gateway.settings.max_rooms_per_connection
        self._most_unread: Final = gateway.settings.ws_max_buffer
        self._announce_max: Final = gateway.settings.announce_max
        self._joining: Final[dict[str, int]] = {}
        #: The members with a new token about whom a rule is being asked.
        self._asking: Final[set[tuple[Client, str]]] = set()

    async def subscribe(self, room: str) -> None:
        """Subscribe this node to ``room`` for a client that will be in it, or call ``unsubscribe``.

        Between here and there the room counts as in use, or the last member's leaving could take away what the next
        one's joining has just subscribed.
        """
        self._joining[room] = self._joining.get(room, 0) + 1
        try:
            await self._broker.subscribe((room,))
        except BaseException:
            # Who left meanwhile has left the room's subscription to this one; and it may have been made all the same.
            with contextlib.suppress(Unavailable):
                await self.unsubscribe(room)
            raise

    async def unsubscribe(self, room: str) -> None:
        """The client that ``subscribe`` was called for will not be in ``room`` after all."""
        self._arrived(room)
        await self._unsubscribe(room)

    def _arrived(self, room: str) -> None:
        waiting = self._joining[room] - 1
        if waiting:
            self._joining[room] = waiting
        else:
            del self._joining[room]

    async def _unsubscribe(self, room: str) -> None:
        """Unsubscribe this node from ``room`` if nobody here is in it, or about to be."""
        if room not in self._hub.rooms and room not in self._hub.personal and room not in self._joining:
            await self._broker.unsubscribe((room,))

    def enter_personal(self, client: Client) -> None:
        """Put the client into its user's own room, which was subscribed for it."""
        room = client.personal_room
        self._arrived(room)
        self._hub.join_personal(room, client)

    async def join(self, client: Client, request: Request) -> None:
        """Let the client into the room, answer ``joined_room``, replay what it missed, and announce the user.

        Joining a room once more only answers, and replays if asked to.
        """
        room = request.room
        if room is None:
            raise protocol.bad_room(None)
        resume, since = _since(request)
        await self._check(client, room)
        newly = not self._hub.has(room, client)
        if newly and len(client.rooms) >= self._most_rooms:
            raise Refused(
                "too_many_rooms", f"This connection is in {self._most_rooms} rooms, the most allowed; leave one."
            )
        await self.subscribe(room)
        if resume:
            try:
                answer = await self._resume(client, request, room, since or "")
            except BaseException:
                await self.unsubscribe(room)
                raise
        else:
            answer = _joined(request)
        # From here to the member's being in the hub nothing may wait: the history and the listener are in step now, so
        # whatever comes later comes live, and nothing comes twice.
        if client.end is not None:
            await self.unsubscribe(room)
            return
        self._arrived(room)
        newly = room not in client.rooms  # a member may have been kicked meanwhile
        if newly or resume:  # a member that only asks again still gets what waits for it
            self._hub.join(room, client)
        self._hub.send(client, answer)
        if newly:
            client.rooms = (*client.rooms, room)
            await self._finish(self._enter(client, room))

    async def _resume(self, client: Client, request: Request, room: str, since: str) -> bytes:
        """Return the frames to send next: ``joined_room`` and what was missed, or its end if it came in portions."""
        history = await self._broker.history(room, since)
        answer = _joined(request, recovered=history.recovered, last_id=history.last_id)
        if self._fits(client, history):
            return answer + _frames(history)
        self._hub.send(client, answer)
        self._hub.leave(room, client)  # a member that asks again gets in portions what comes live meanwhile, too
        try:
            history = await self._feed(client, room, history, since)
        except BaseException as error:  # it was told that it has joined, and has not
            client.close(TOO_SLOW if isinstance(error, asyncio.CancelledError) else INTERNAL_ERROR)
            raise
        if not history.recovered:
            return frames.text(protocol.resync(room, history.last_id))
        return _frames(history)

    async def _feed(self, client: Client, room: str, history: History, since: str) -> History:
        """Send what the client missed in portions, each when the one before is taken; return the last, to be sent.

        All at once would close it with 1013; it would come back, ask for the same, and never get on. Who is too slow
        even for this is closed in the end, and may resume from where it got to.
        """
        while client.end is None and history.recovered and not self._fits(client, history):
            if client.owed:
                await asyncio.sleep(_PAUSE)
            else:
                portion = b""
                for event in history.events:
                    portion += frames.event(event.payload, event.id)
                    since = event.id
                    if len(portion) >= self._most_unread // 2:
                        break
                self._hub.send(client, portion)
            # Anew after every wait, or what was published meanwhile would be neither in it nor live.
            history = await self._broker.history(room, since)
        return history

    def _fits(self, client: Client, history: History) -> bool:
        """Whether the client may be sent all of ``history`` at once and leave it unread."""
        if not history.events:
            return True
        size = sum(len(event.payload) + len(event.id) + _FRAMING for event in history.events)
        return client.owed + size <= self._most_unread

    def replay(self, client: Client, history: History) -> tuple[bytes, bool]:
        """Return the frames of what the client missed of its user's own room, and whether they are all.

        More than it may leave unread is not begun: it would be closed for it each time it comes back.
        """
        if not self._fits(client, history):
            return b"", False
        return _frames(history), history.recovered

    async def _check(self, client: Client, room: str) -> None:
        """Raise ``Forbidden`` unless the rule of the room's type lets the client in."""
        kind = self._gateway.registry.room(room)
        if kind.type == "user":
            raise Forbidden(room, _nobody_joins(room, own=room == client.personal_room))
        identity = client.identity
        if kind.rule is not None:
            context = Context(self._gateway, client, room)
            allowed = await kind.rule(context, room[room.index(":") + 1 :])
        else:
            decided = self._gateway.policy.decide(identity, room)
            allowed = decided if decided is not None else await self._gateway.policy.allows(identity, room)
        if allowed is not True:
            raise Forbidden(room)

    @staticmethod
    async def _finish(rest: Coroutine[Any, Any, None]) -> None:
        """Do the ``rest`` of a command whose answer is sent: if it is cut off, the answer stands, and is no error."""
        try:
            await rest
        except asyncio.CancelledError:
            log.warning("The broker took too long over a coming or going; it may not be announced")

    async def _enter(self, client: Client, room: str) -> None:
        """Tell the broker and the others of a client that is in; a broker that is away learns it when it is back."""
        identity = client.identity
        try:
            change = await self._broker.enter(room, identity.user_id, identity.username, client.id)
            if change.edge and change.users <= self._announce_max:
                await self._announce(UserJoined, room, identity)
        except Unavailable as error:
            log.warning("The coming of user %s to %s is announced late or not: %s", identity.user_id, room, error)

    async def _announce(self, event: type[UserJoined] | type[UserLeft], room: str, who: Identity | Member) -> None:
        data = {"username": who.username, "user_id": who.user_id}
        await self._gateway.publish_core(event, room, data, who.username)

    async def gone(self, room: str, member: Member, users: int) -> None:
        """Announce the going of ``member``, whose node died; ``users`` are left in the room."""
        if users < self._announce_max:
            await self._announce(UserLeft, room, member)

    async def back(self, room: str, member: Member, users: int) -> None:
        """Announce that ``member``, of whom others had taken leave, was here all the while."""
        if users <= self._announce_max:
            await self._announce(UserJoined, room, member)

    async def leave(self, client: Client, request: Request) -> None:
        """Take the client out of the room and answer ``left_room``; leaving where one is not is no error."""
        room = request.room
        if room is None:
            raise protocol.bad_room(None)
        protocol.takes_only(request)
        if room == client.personal_room:
            raise Refused("bad_room", f"{room} is your own room; you are in it for as long as you are connected.")
        await self._finish(self.take_out(client, room, f"Left room {room}", request.id))

    async def take_out(self, client: Client, room: str, message: str, id: str | int | None = None) -> None:
        """Take the client out of the room, tell it so with ``message``, and announce the user's going to the rest."""
        empty = self._hub.leave(room, client)
        client.tell(protocol.reply("left_room", {"message": message}, room=room, id=id))
        if room in client.rooms:
            client.rooms = tuple(one for one in client.rooms if one != room)
            await self._gone(client, room, empty)

    async def review(self, client: Client) -> None:
        """Take the client, which has a new token, out of the rooms that it may no longer be in.

        Plugins' rules are asked beside everything else: the client stays until they have answered. The URL of
        ``ROOM_ACCESS`` is not asked again, for it is not told of the token.
        """
        for room in client.rooms:
            if self._gateway.registry.room(room).rule is not None:
                self._gateway.spawn(self._ask_again(client, room))
            elif self._gateway.policy.decide(client.identity, room) is False:
                await self.take_out(client, room, f"The new token does not cover room {room}")

    async def _ask_again(self, client: Client, room: str) -> None:
        """Take the client out of ``room`` if the rule, asked anew, does not let it in with the newest token.

        Who brings tokens faster than the rule answers is not asked about all the time, and is out at the second no: or
        it would stay for as long as it goes on.
        """
        question = (client, room)
        if question in self._asking:
            return
        self._asking.add(question)
        try:
            refused = False
            while room in client.rooms:
                identity = client.identity
                allowed = await self._lets_stay(client, room)
                is_newest = client.identity is identity
                if allowed and is_newest:
                    return
                if not allowed and (is_newest or refused):
                    break
                refused |= not allowed
        finally:
            self._asking.discard(question)
        if room in client.rooms:
            await self.take_out(client, room, f"You have no access to room {room} with the new token")

    async def _lets_stay(self, client: Client, room: str) -> bool:
        """Whether the rule of ``room`` lets the client in, within ``HANDLER_TIMEOUT``; not if it fails."""
        user_id = client.identity.user_id
        try:
            async with asyncio.timeout(self._gateway.settings.handler_timeout):
                await self._check(client, room)
        except Forbidden:
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.error("The rule of %s awaited what was cancelled; user %s is out", room, user_id)
            return False
        except Exception:
            log.exception("The rule of %s failed for a new token of user %s, who is out", room, user_id)
            return False
        return True

    async def depart(self, client: Client) -> None:
        """Take a client whose connection ended out of all its rooms, and give its lease back."""
        rooms, client.rooms = client.rooms, ()
        # What is here goes first, and whatever the broker does: nobody may go on writing to a client that has gone.
        left = [(room, self._hub.leave(room, client)) for room in rooms]
        last = self._hub.leave_personal(client.personal_room, client)
        try:
            for room, empty in left:
                await self._gone(client, room, empty)
            if last:
                await self._unsubscribe(client.personal_room)
        finally:
            await self._broker.release(client.identity.user_id, client.id)

    async def _gone(self, client: Client, room: str, empty: bool) -> None:
        """The client is out of the hub's room, which is ``empty`` now or not; tell the broker and the others."""
        identity = client.identity
        try:
            try:
                change = await self._broker.leave(room, identity.user_id, client.id)
            finally:
                if empty:
                    await self._unsubscribe(room)
            if change.edge and change.users < self._announce_max:
                await self._announce(UserLeft, room, identity)
        except Unavailable as error:
            log.warning("The going of user %s from %s is announced late or not: %s", identity.user_id, room, error)


def _nobody_joins(room: str, *, own: bool) -> str:
    if own:
        return f"You are in your own room, {room}, from the start and hear its events; nobody joins one."
    return f"{room} is another user's own room; nobody joins one. What is sent to you comes without your joining."


def _joined(request: Request, **resumed: Any) -> bytes:
    data = {"message": f"Joined room {request.room}", **resumed}
    return frames.text(protocol.reply("joined_room", data, room=request.room, id=request.id))


def _frames(history: History) -> bytes:
    return b"".join([frames.event(event.payload, event.id) for event in history.events])


def _since(request: Request) -> tuple[bool, str | None]:
    """Return (whether the client wants to know where it stands, the id it has seen last) of a join's data."""
    if not request.data:
        return False, None
    protocol.takes_only(request, "since")
    since = request.data["since"]
    if since is not None and not isinstance(since, str):
        message = "give the id of the last event you saw, or null"
        raise Refused("invalid_data", f"data.since: {message}.", {"since": [f"Not a string; {message}."]})
    return True, since
