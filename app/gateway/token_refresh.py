"""The ``refresh_token`` command: replace the token of a connection, and leave the rooms that it does not cover."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..auth.identity import Authenticator
from ..auth.revocation import Revocations
from ..errors import AuthenticationFailed, Refused
from ..protocol import messages
from ..protocol.messages import Request
from .audit_log import log_user_event
from .client import Client
from .node import Node
from .rooms import Rooms
from .rules import JoinForbidden, RoomRules

log = logging.getLogger("roomcast")


class TokenRefresh:
    """Replaces the identity of a client, and removes it from rooms that the new token does not allow."""

    def __init__(
        self, node: Node, authenticator: Authenticator, revocations: Revocations, rooms: Rooms, rules: RoomRules
    ) -> None:
        self._tasks: Final = node.tasks
        #: How long a plugin's rule may take, in seconds.
        self._timeout: Final = node.settings.handler_timeout
        self._authenticator: Final = authenticator
        self._revocations: Final = revocations
        self._rooms: Final = rooms
        self._rules: Final = rules
        #: The memberships whose rule is being evaluated.
        self._under_review: Final[set[tuple[Client, str]]] = set()

    async def refresh(self, client: Client, request: Request) -> None:
        """Use the token in the request from now on; reply ``token_refreshed``. It must belong to the same user."""
        messages.refuse_other_fields(request, "token")
        token = (request.data or {}).get("token")
        if not isinstance(token, str):
            raise Refused("invalid_data", "data.token: give the new token.", {"token": ["Missing or not a string."]})
        try:
            identity = self._authenticator.verify(token)
            await self._revocations.check(identity)
        except AuthenticationFailed as failed:
            log_user_event("new token refused", client, str(failed))
            raise Refused("bad_token", f"The new token is refused. {failed}") from None
        if identity.user_id != client.identity.user_id:
            log_user_event("new token refused", client, f"it is of user {identity.user_id}")
            raise Refused("bad_token", "The new token is another user's; reconnect to change the user.")
        client.identity = identity
        client.send_json(messages.reply("token_refreshed", {"expires": identity.expires}, id=request.id))
        await self._review_rooms(client)

    async def _review_rooms(self, client: Client) -> None:
        """Remove the client from the rooms that its new token does not cover.

        Plugins' rules are evaluated in the background, and the client stays until they have decided. The URL of
        ``ROOM_ACCESS`` is not asked again, because its request does not contain the token.
        """
        for room in client.rooms:
            if self._rules.has_plugin_rule(room):
                self._tasks.spawn(self._review_room(client, room))
            elif self._rules.claims_forbid(client, room):
                await self._rooms.remove(client, room, f"The new token does not cover room {room}")

    async def _review_room(self, client: Client, room: str) -> None:
        """Remove the client from ``room`` if the plugin's rule refuses the newest token.

        A token that arrives while the rule is evaluated starts no second review; this one evaluates the rule again. A
        client could therefore stay by sending tokens faster than the rule decides, so the second refusal removes it
        even if a newer token has arrived.
        """
        membership = (client, room)
        if membership in self._under_review:
            return
        self._under_review.add(membership)
        try:
            was_refused = False
            while room in client.rooms:
                identity = client.identity
                is_allowed = await self._may_stay(client, room)
                is_newest = client.identity is identity
                if is_allowed and is_newest:
                    return
                if not is_allowed and (is_newest or was_refused):
                    break
                was_refused |= not is_allowed
        finally:
            self._under_review.discard(membership)
        if room in client.rooms:
            await self._rooms.remove(client, room, f"You have no access to room {room} with the new token")

    async def _may_stay(self, client: Client, room: str) -> bool:
        """Return True if the rule of ``room`` allows the client within the timeout; False if it fails."""
        user_id = client.identity.user_id
        try:
            async with asyncio.timeout(self._timeout):
                await self._rules.check(client, room)
        except JoinForbidden:
            return False
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.error("The rule of %s awaited a cancelled task; user %s is removed", room, user_id)
            return False
        except Exception:
            log.exception("The rule of %s failed for a new token of user %s, who is removed", room, user_id)
            return False
        return True
