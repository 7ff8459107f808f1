"""The ``refresh_token`` command: replace the token of a connection, and leave the rooms that it does not cover."""

from __future__ import annotations

import asyncio
from typing import Final

from ..auth.identity import Authenticator
from ..auth.revocation import Revocations
from ..backoff import Backoff
from ..errors import INTERNAL_ERROR, AuthenticationFailed, Refused, Unavailable
from ..protocol import messages
from ..protocol.messages import Request
from .audit_log import Denials, log_user_event
from .client import Client
from .node import Node
from .rate_limit import TOKEN_COST
from .rooms import Rooms
from .rules import JoinForbidden, RoomRules

#: How long a member stays in a room while the rule fails for its new token, in seconds. The token is valid and the rule
#: allowed an earlier one, so the member stays during most outages, but not for as long as it can make the rule fail.
MAX_UNDECIDED: Final = 600.0
#: The pauses between two evaluations of a rule that fails, in seconds.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
#: How long a rule that has exceeded its time may suppress its cancellation, in seconds.
_CANCEL_TIMEOUT: Final = 1.0


class TokenRefresh:
    """Replaces the identity of a client, and removes it from rooms that the new token does not allow."""

    def __init__(
        self, node: Node, authenticator: Authenticator, revocations: Revocations, rooms: Rooms, rules: RoomRules
    ) -> None:
        self._tasks: Final = node.tasks
        #: How long a plugin's rule may take, in seconds.
        self._timeout: Final = node.settings.handler_timeout
        self._loop: Final = node.loop
        self._authenticator: Final = authenticator
        self._revocations: Final = revocations
        self._rooms: Final = rooms
        self._rules: Final = rules
        self._denials: Final = Denials()
        #: The memberships whose rule is being evaluated.
        self._under_review: Final[set[tuple[Client, str]]] = set()

    async def refresh(self, client: Client, request: Request) -> None:
        """Use the token in the request from now on; reply ``token_refreshed``. It must belong to the same user."""
        messages.refuse_other_fields(request, "token")
        token = (request.data or {}).get("token")
        if not isinstance(token, str):
            raise Refused("invalid_data", "data.token: give the new token.", {"token": ["Missing or not a string."]})
        client.bytes_left -= TOKEN_COST
        try:
            identity = self._authenticator.verify(token)
            await self._revocations.check(identity)
        except AuthenticationFailed as failed:
            self._denials.add("new token refused", client, str(failed))
            raise Refused("bad_token", f"The new token is refused. {failed}") from None
        if identity.user_id != client.identity.user_id:
            self._denials.add("new token refused", client, f"it is of user {identity.user_id}")
            raise Refused("bad_token", "The new token is another user's; reconnect to change the user.")
        client.identity = identity
        client.send_json(messages.reply("token_refreshed", {"expires": identity.expires}, id=request.id))
        await self._review_rooms(client)

    async def _review_rooms(self, client: Client) -> None:
        """Remove the client from the rooms that its new token does not cover.

        Plugins' rules are evaluated in the background, and the client stays until they have decided (``_review_room``).
        The URL of ``ROOM_ACCESS`` is not asked again, because its request does not contain the token.
        """
        for room in client.rooms:
            if self._rules.has_plugin_rule(room):
                self._tasks.spawn(self._review_room(client, room))
            elif self._rules.claims_forbid(client, room):
                await self._rooms.remove(client, room, f"The new token does not cover room {room}")

    async def _review_room(self, client: Client, room: str) -> None:
        """Remove the client from ``room`` if the plugin's rule refuses the newest token.

        A rule that fails is evaluated again, and the client stays for at most ``MAX_UNDECIDED`` seconds. Then it is
        closed with 4500: it may reconnect to its other rooms, and enters this one when the rule decides.

        A token that arrives while the rule is evaluated starts no second review; this one evaluates the rule again. A
        client could therefore stay by sending tokens faster than the rule decides, so the second refusal removes it
        even if a newer token has arrived.
        """
        membership = (client, room)
        if membership in self._under_review:
            return
        self._under_review.add(membership)
        try:
            await self._remove_if_refused(client, room)
        finally:
            self._under_review.discard(membership)

    async def _remove_if_refused(self, client: Client, room: str) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, jitter=0.5)
        deadline = self._loop.time() + MAX_UNDECIDED
        was_refused = False
        while room in client.rooms:
            identity = client.identity
            decision = await self._decide(client, room)
            is_newest = client.identity is identity
            if decision is None:
                pause = backoff.next_pause()
                if self._loop.time() + pause >= deadline:
                    log_user_event("closed", client, f"the rule of {room} has not decided for {MAX_UNDECIDED:g} s")
                    client.close(INTERNAL_ERROR)  # and not left_room, which clients take for a no
                    return
                await asyncio.sleep(pause)
            elif decision and is_newest:
                return
            elif not decision and (is_newest or was_refused):
                await self._rooms.remove(client, room, f"You have no access to room {room} with the new token")
                return
            else:
                was_refused |= not decision

    async def _decide(self, client: Client, room: str) -> bool | None:
        """Return the decision of the rule of ``room``, or None if it fails."""
        # In a task of its own: a rule that suppresses its cancellation must not keep the member in the room for ever.
        check = self._loop.create_task(self._rules.check(client, room), name=f"the rule of {room}")
        try:
            await asyncio.wait([check], timeout=self._timeout + _CANCEL_TIMEOUT)
        finally:
            check.cancel()
        if not check.done():
            check.add_done_callback(_ignore_result)
            return None
        try:
            check.result()
        except JoinForbidden:
            return False
        except (Refused, Unavailable):
            return None
        return True


def _ignore_result(task: asyncio.Task[None]) -> None:
    """Read the exception of ``task``. Otherwise asyncio logs that nothing has read it."""
    if not task.cancelled():
        task.exception()
