"""The ids of connections, which are unique over all nodes.

An id contains the node and the user of the connection, so that no node needs a table of all ids.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .broker.base import UserId
from .protocol.user_id import decode_percent, parse_user_id, quote_user_id

_parse: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,15})-(.+)").fullmatch


class ConnectionId(NamedTuple):
    """The ``number`` of a connection on its ``node``, and its user. ``str`` returns the id that plugins use."""

    node: str
    number: int
    user_id: UserId

    def __str__(self) -> str:
        return f"{self.node}-{self.number}-{quote_user_id(self.user_id)}"


def parse_connection_id(text: str) -> ConnectionId:
    """Return the parts of an id; raise ``ValueError`` if ``text`` is none."""
    found = _parse(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r:.100} is not the id of a connection; use ctx.connection_id.")
    return ConnectionId(found[1], int(found[2]), parse_user_id(decode_percent(found[3])))
