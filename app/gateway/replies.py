"""Reply to requests with results, refusals and failures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from ..declarations import Command
from ..errors import FORBIDDEN, InvalidEvent, Refused, Unavailable
from ..failure_log import EXCEPTION_LINES, FailureLog, place_of
from ..protocol import messages
from ..protocol.messages import Request
from .audit_log import Denials
from .client import Client
from .node import Node
from .rules import JoinForbidden

log = logging.getLogger("roomcast")


class Replies:
    """Builds and sends the frames that answer requests."""

    def __init__(self, node: Node) -> None:
        self._counters: Final = node.counters
        self._closes_on_forbidden: Final = node.settings.forbidden_join == "close"
        self._unavailable: Final = FailureLog(log)
        self._exceptions: Final = FailureLog(log, EXCEPTION_LINES)
        self._denials: Final = Denials()

    def send_result(self, client: Client, request: Request, command: Command, result: Mapping[str, Any] | None) -> None:
        """Send the result of a command's handler. A result that is not a JSON object becomes the error ``internal``."""
        try:
            if result is not None and not isinstance(result, Mapping):
                raise Refused("internal", f"a {result.__class__.__name__} and not a dict")
            client.send_json(messages.reply(command.reply, result or {}, room=request.room, id=request.id))
        except Refused as refused:
            log.error("The handler of %s returned a value that cannot be sent: %s", request.type, refused)
            self.send_error(client, _internal(request), request.room, request.id)

    def send_failure(self, client: Client, request: Request, error: BaseException) -> None:
        """Send the error frame for a request that failed. An unexpected error is logged and sent as ``internal``.

        The client never receives the text of an unexpected error, or the detail of ``Unavailable``: the log has them.
        """
        if isinstance(error, Refused) and not isinstance(error, InvalidEvent):
            refused = error
        elif isinstance(error, JoinForbidden):
            refused = error.refused
            self._denials.add("join refused", client, str(refused))
        elif isinstance(error, Unavailable):
            refused = Refused("unavailable", f"{request.type} could not be carried out now; try again soon. {error}")
            if error.detail != str(error):
                self._unavailable.add(request.type, f"{request.type} could not be carried out: {error.detail}")
        else:
            text = f"{request.type} of user {client.identity.user_id} failed"
            self._exceptions.add(f"{request.type} {place_of(error)}", text, error)
            refused = _internal(request)
        self.send_error(client, refused, request.room, request.id)
        if isinstance(error, JoinForbidden) and refused.code == "forbidden" and self._closes_on_forbidden:
            client.close(FORBIDDEN)

    def send_error(self, client: Client, refused: Refused, room: str | None, id: str | int | None) -> None:
        """Send an ``error`` frame, and count it."""
        self._counters.count_error(refused.code)
        try:
            client.send_json(messages.error(refused, room=room, id=id))
        except Refused as error:  # a plugin's code or fields cannot be encoded as JSON
            log.error("A refusal was sent without its fields: %s", error)
            sentence = str(refused.message).encode("ascii", "backslashreplace").decode()
            client.send_json(messages.error(Refused(str(refused.code), sentence), room=room, id=id))


def _internal(request: Request) -> Refused:
    return Refused("internal", f"{request.type[:60]} failed on the server; its log says why. Try again later.")
