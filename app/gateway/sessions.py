"""The sessions of one node: admit a client, welcome it, and clean up when its connection ends."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from ..auth.identity import Identity
from ..auth.revocation import Revocations
from ..broker.base import History
from ..errors import AUTHENTICATION_FAILED
from ..protocol import messages
from ..settings import Settings
from .audit_log import log_end
from .client import Client, MessageHandler
from .hooks import Hooks
from .node import Node
from .probes import Probes
from .resume import Resume
from .rooms import Rooms


class Sessions:
    """Creates clients, and handles the beginning and the end of their sessions (see ``client.SessionHandler``)."""

    def __init__(
        self,
        node: Node,
        message_handler: MessageHandler,
        rooms: Rooms,
        resume: Resume,
        revocations: Revocations,
        probes: Probes,
        hooks: Hooks,
    ) -> None:
        self._loop: Final = node.loop
        self._broker: Final = node.broker
        self._delivery: Final = node.delivery
        self._keepalive: Final = node.keepalive
        self._counters: Final = node.counters
        self._max_connections_per_user: Final = node.settings.max_connections_per_user
        self._about_server: Final = messages.about_server(version("roomcast"), _limits(node.settings))
        self._message_handler: Final = message_handler
        self._rooms: Final = rooms
        self._resume: Final = resume
        self._revocations: Final = revocations
        self._probes: Final = probes
        self._hooks: Final = hooks if hooks.follows_connections else None
        #: The history of the personal room of each client that resumes, from ``admit`` until ``opened``.
        self._missed: Final[dict[Client, History]] = {}
        self._last_id = 0

    async def admit(self, identity: Identity, remote: str, since: str | None = None) -> Client | None:
        """Return a client for ``identity`` without a transport, or None if its user has too many connections.

        At the limit, this waits until it is known whether the user's other connections are alive (see ``Probes``).
        ``remote`` is the client's address for the log. ``since`` is the id of the last event that the client has seen
        of its user's personal room, or None if it does not resume. The caller must pass the client to a transport
        (``Client.take_over``) or call ``release``, without waiting in between: events that arrive meanwhile would be
        missing from the history that was read. Raises ``AuthenticationFailed`` if the token was revoked,
        ``Unavailable`` if the broker cannot be reached.
        """
        checked = await self._revocations.check(identity)
        user_id = identity.user_id
        self._last_id += 1
        id = self._last_id
        is_admitted = await self._broker.admit(user_id, id, self._max_connections_per_user)
        if not is_admitted and not await self._probes.wait_for_slot(user_id, id):
            return None
        client = Client(
            self._delivery, self._keepalive, self._message_handler, self, id=id, identity=identity, remote=remote
        )
        try:
            await self._rooms.subscriptions.acquire(client.personal_room)
        except BaseException:
            await self._broker.release(user_id, id)
            raise
        try:
            is_current = False
            while not is_current:
                if since is not None:
                    self._missed[client] = await self._resume.read_personal(client, since)
                # This waits if a revocation arrived meanwhile. The history must then be read again.
                revision, checked = checked, await self._revocations.check(identity, checked)
                is_current = checked == revision
        except BaseException:
            await self.release(client)
            raise
        return client

    async def release(self, client: Client) -> None:
        """Undo ``admit`` for a client that does not take over its transport, for example because that has closed."""
        self._missed.pop(client, None)
        try:
            await self._rooms.subscriptions.release(client.personal_room)
        finally:
            await self._broker.release(client.identity.user_id, client.id)

    def opened(self, client: Client) -> None:
        """Add a client that has its transport to its user's personal room, and welcome it."""
        self._rooms.join_personal(client)
        if self._hooks is not None:
            self._hooks.opened(client)
        identity = client.identity
        history = self._missed.pop(client, None)
        if history is None:
            client.send_json(messages.connected(identity.user_id, identity.username, self._about_server))
            return
        missed, recovered = self._resume.replay(client, history)
        resumed = {"recovered": recovered, "last_id": history.last_id}
        client.send_json(messages.connected(identity.user_id, identity.username, self._about_server, resumed))
        if missed:
            self._delivery.send(client, missed)

    def closing(self, client: Client) -> None:
        """Leave the client's rooms in the next loop iteration: a fan-out over these rooms may be under way."""
        self._loop.call_soon(self._rooms.depart, client)

    def ended(self, client: Client) -> None:
        """Leave the client's rooms if that has not begun; count and log the end."""
        self._rooms.depart(client)
        if self._hooks is not None:
            self._hooks.ended(client)
        assert client.end is not None
        self._counters.count_end(client.end)
        log_end(client, self._loop.time() - client.opened_at)

    def token_expired(self, client: Client) -> None:
        """Close a client whose token has expired."""
        client.close(AUTHENTICATION_FAILED)


def _limits(settings: Settings) -> dict[str, float]:
    """Return the limits that concern a client, as the welcome names them."""
    return {
        "max_message_size": settings.ws_max_message_size,
        "message_rate": settings.ws_message_rate,
        "byte_rate": settings.ws_byte_rate,
        "heartbeat": settings.ws_heartbeat_interval,
        "max_rooms": settings.max_rooms_per_connection,
        "drain": settings.drain_seconds,
    }
