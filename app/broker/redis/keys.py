"""The names of all keys and channels in Redis.

All keys of a room share a hash tag, so that a Cluster stores them on one server. The same holds for a user's keys.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Final

from ..base import UserId

#: The room that carries signals to all nodes. Clients cannot name it.
SIGNALS: Final = "!signals"


class Keys:
    """The names under one ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix: Final = prefix
        #: A zset: the rooms with members on any node, and when their registration ends.
        self.rooms: Final = f"{prefix}:rooms"
        #: A zset: the rooms whose changes or events are reported to hooks, and when their registration ends.
        self.followed: Final = f"{prefix}:followed"

    # Events.

    def channel(self, room: str) -> str:
        """Return the pub/sub channel of ``room``. It is also the hash tag with which its keys begin."""
        return f"{{{self.prefix}:{room}}}"

    def meta(self, room: str) -> str:
        """Return the key of a hash: the epochs and the newest offset (see ``lua/room.lua``)."""
        return f"{{{self.prefix}:{room}}}:m"

    def stream(self, room: str) -> str:
        """Return the key of a stream: the history."""
        return f"{{{self.prefix}:{room}}}:s"

    @staticmethod
    def of_channel(channel: bytes) -> tuple[bytes, bytes]:
        """Return the keys of the meta and the stream of the room with this channel."""
        return channel + b":m", channel + b":s"

    def key(self, room: str, key: str) -> str:
        """Return the key of a string: the id of the event that was published with the idempotency ``key``."""
        return f"{{{self.prefix}:{room}}}:k:{key}"

    def receipt(self, room: str, node: str, slot: int) -> str:
        """Return the key of a string: the number and the ids of the last batch in this slot of ``node``."""
        return f"{{{self.prefix}:{room}}}:r:{node}/{slot}"

    def echo_channel(self, node: str) -> str:
        """Return the channel on which ``node`` sends messages to itself, to test the path through Redis."""
        return f"{self.prefix}:!echo:{node}"

    def check(self, number: int) -> str:
        """Return a key that never exists, which is also the channel of no room, to test which commands are allowed."""
        return f"{{{self.prefix}:!check:{number}}}"

    def generation(self, number: int) -> str:
        """Return the key of a hash: since when nodes use a server. Each server has one with a ``number`` of its own."""
        return f"{{{self.prefix}:!generation:{number}}}"

    # Queues.

    def queue(self, name: str) -> tuple[str, ...]:
        """Return the keys of a queue: entries, lease, number of bytes, dead letters and states (see ``lua/queue*``)."""
        tag = f"{{{self.prefix}:!queue:{name}}}"
        return tuple(f"{tag}:{letter}" for letter in "elbdt")

    # Leases and presence.

    def leases(self, user_id: UserId) -> str:
        """Return the key of a zset: the user's connections on all nodes, and when their leases end."""
        return f"{{{self.prefix}:u:{json.dumps(user_id)}}}:l"

    def presence(self, room: str) -> tuple[str, ...]:
        """Return the keys of a room's presence, and its channel (see ``lua/presence.lua``)."""
        tag = f"{{{self.prefix}:{room}}}"
        return (*[f"{tag}:{letter}" for letter in "npogadjv"], tag)

    def changes(self, room: str) -> tuple[str, str]:
        """Return the keys of the changes of memberships in ``room``, and of the claims (see ``lua/presence.lua``)."""
        tag = f"{{{self.prefix}:{room}}}"
        return f"{tag}:h", f"{tag}:c"

    def published(self, room: str) -> tuple[str, str]:
        """Return the keys of the followed events in ``room``, and of the claims (see ``lua/publish.lua``)."""
        tag = f"{{{self.prefix}:{room}}}"
        return f"{tag}:e", f"{tag}:f"

    @staticmethod
    def updates_of_channel(channel: bytes) -> tuple[bytes, bytes]:
        """Return the keys of the users and of the announced statuses of the room with this channel."""
        return channel + b":p", channel + b":v"

    # Claims, one-time values, marks and revocations.

    def claim(self, key: str) -> str:
        """Return the key of a string: the answer of a claim, or empty while it is pending."""
        return f"{{{self.prefix}:!claim:{key}}}"

    def turn(self, name: str) -> str:
        """Return the key of a string: the holder of a turn."""
        return f"{{{self.prefix}:!turn:{name}}}"

    def value(self, key: str) -> str:
        """Return the key of a string that is taken once."""
        return f"{{{self.prefix}:!kept:{key}}}"

    def marks(self, user_id: UserId) -> str:
        """Return the key of a hash: up to where the user has read each room (see ``lua/mark_read.lua``)."""
        return f"{{{self.prefix}:u:{json.dumps(user_id)}}}:r"

    def revoked(self, user_id: UserId) -> str:
        """Return the key of a string: the Unix time before which the user's tokens are revoked."""
        return f"{{{self.prefix}:u:{json.dumps(user_id)}}}:x"

    def revoked_token(self, user_id: UserId, token_id: str) -> str:
        """Return the key of a string that exists if one token is revoked.

        It contains a digest, because token ids may be long and contain any characters.
        """
        digest = blake2b(token_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return f"{self.revoked(user_id)}:{digest}"
