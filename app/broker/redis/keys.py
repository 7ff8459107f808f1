"""What things are called in Redis. All keys of a room share a hash tag, so that a Cluster keeps them on one server."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Final

from ..base import UserId


class Keys:
    """The names under one ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix: Final = prefix

    def channel(self, room: str) -> str:
        """The pub/sub channel of ``room``; also the hash tag that its keys begin with."""
        return f"{{{self.prefix}:{room}}}"

    def meta(self, room: str) -> str:
        """A hash: epoch, newest offset, run_id of the server."""
        return f"{{{self.prefix}:{room}}}:m"

    def stream(self, room: str) -> str:
        """A stream: the history."""
        return f"{{{self.prefix}:{room}}}:s"

    def key(self, room: str, key: str) -> str:
        """A string: the id that was given to the event published with the idempotency ``key``."""
        return f"{{{self.prefix}:{room}}}:k:{key}"

    def receipt(self, room: str, node: str) -> str:
        """A string: the ids that the last batch of ``node`` was given."""
        return f"{{{self.prefix}:{room}}}:r:{node}"

    def claim(self, key: str) -> str:
        """A string: what a claimed key was answered, or empty while it is not."""
        return f"{{{self.prefix}:!claim:{key}}}"

    def revoked(self, user_id: UserId) -> str:
        """A string: the Unix time before which the user's tokens count no longer."""
        return f"{{{self.prefix}:u:{json.dumps(user_id)}}}:x"

    def revoked_token(self, user_id: UserId, token_id: str) -> str:
        """A string: that one token counts no longer. Token ids may be long and of any characters, their digest not."""
        digest = blake2b(token_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return f"{self.revoked(user_id)}:{digest}"

    def kept(self, key: str) -> str:
        """A string that is taken once."""
        return f"{{{self.prefix}:!kept:{key}}}"
