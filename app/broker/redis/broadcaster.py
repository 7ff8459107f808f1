"""Broadcasts: payloads that reach the subscribed nodes through pub/sub, and that Redis does not store.

A message is one line, the payloads, and a signature of the line. The line is ``=<node> <number> <digest>``, and the
length of each payload. Any program that may publish on the Redis can send messages on a room's channel. So the
signature has the secret of announcements (see ``lua/room.lua``), the digest is the hash of the payloads, and a number
that is not larger than the last one of its node is a repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from hashlib import sha1
from typing import Any, Final
from weakref import WeakKeyDictionary

from ...errors import Unavailable
from .connection import RedisConnection, ReplyError, pack
from .keys import Keys
from .router import Router
from .server_queue import REFUSALS, TOPOLOGY_ERRORS
from .subscriptions import Subscription

#: The length of the signature of an announcement or broadcast, in bytes.
SIGNATURE_SIZE: Final = 16
#: How many bytes of broadcasts may be unanswered by one server. Redis forwards them in about 1 ms for each subscribed
#: node. More than that would delay the events that are published after them.
MAX_IN_FLIGHT: Final = 256 * 1024
#: How many bytes of broadcasts may wait for Redis. More are dropped.
MAX_WAITING: Final = 1024 * 1024
#: Of how many nodes the last number is kept for each room. A restarted node is a new one.
MAX_NODES: Final = 1000


class Broadcaster:
    """Sends the broadcasts of ``node``, its name in Redis, with the command ``publish``.

    The broadcasts of one loop iteration are written together, with one message for each room. While a server has
    ``MAX_IN_FLIGHT`` bytes to answer, further ones wait.
    """

    def __init__(self, router: Router, keys: Keys, node: str, publish: str) -> None:
        self._router: Final = router
        self._keys: Final = keys
        self._node: Final = node
        self._publish: Final = publish
        self._loop: Final = asyncio.get_running_loop()
        #: By channel.
        self._waiting: dict[str, list[bytes]] = {}
        self._waiting_bytes = 0
        self._is_scheduled = False
        self._in_flight: Final[WeakKeyDictionary[RedisConnection, int]] = WeakKeyDictionary()
        self._last_number = 0
        #: For the metrics.
        self.dropped = 0

    def send(self, room: str, payload: bytes) -> None:
        """Send ``payload`` at the end of this loop iteration, or drop it if Redis is too slow.

        Raises ``Unavailable`` if the server of the room cannot be reached now.
        """
        channel = self._keys.channel(room)
        self._router.connection(channel)
        if self._waiting_bytes and self._waiting_bytes + len(payload) > MAX_WAITING:
            self.dropped += 1
            return
        self._waiting_bytes += len(payload)
        payloads = self._waiting.get(channel)
        if payloads is None:
            self._waiting[channel] = [payload]
        else:
            payloads.append(payload)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._is_scheduled = False
        for channel in list(self._waiting):
            try:
                connection = self._router.connection(channel)
            except Unavailable:
                self.dropped += len(self._remove(channel))
                continue
            in_flight = self._in_flight.get(connection, 0)
            if in_flight < MAX_IN_FLIGHT:
                payloads = self._remove(channel)
                message = self._message(connection, channel, payloads)
                self._in_flight[connection] = in_flight + len(message)
                on_reply = partial(self._on_reply, connection, len(message), len(payloads))
                connection.send(pack((self._publish, channel, message)), on_reply)

    def _remove(self, channel: str) -> list[bytes]:
        payloads = self._waiting.pop(channel)
        self._waiting_bytes -= sum(map(len, payloads))
        return payloads

    def _message(self, connection: RedisConnection, channel: str, payloads: list[bytes]) -> bytes:
        self._last_number += 1
        body = b"".join(payloads)
        lengths = " ".join([str(len(payload)) for payload in payloads])
        head = f"={self._node} {self._last_number} {_digest(body)} {lengths}".encode()
        signature = _digest(connection.generation + channel.encode() + head)
        return b"%b\n%b%b" % (head, body, signature.encode())

    def _on_reply(self, connection: RedisConnection, size: int, count: int, reply: Any) -> None:
        """The server has executed the command, or refused it. Refused broadcasts are dropped."""
        self._in_flight[connection] -= size
        if isinstance(reply, ReplyError):
            self.dropped += count
            if reply.code in TOPOLOGY_ERRORS:
                self._router.refresh_soon()
            elif reply.code in REFUSALS:
                self._router.report_refusal()
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._send_waiting)


class ReceivedBroadcasts:
    """Checks the broadcasts that a node receives, whose signature was verified.

    Keeps the last number of each node for the rooms in which there were broadcasts.
    """

    def __init__(self) -> None:
        self._numbers: Final[dict[Subscription, dict[bytes, int]]] = {}

    def accept(self, subscription: Subscription, head: bytes, body: bytes) -> Iterable[bytes] | None:
        """Return the payloads of a message; none if it is a repeat. Return None if the payloads were changed."""
        node, number, digest, *lengths = head.split(b" ")
        if digest != _digest(body).encode():
            return None
        numbers = self._numbers.setdefault(subscription, {})
        if int(number) <= numbers.get(node, 0):
            return ()
        if node not in numbers and len(numbers) >= MAX_NODES:
            del numbers[next(iter(numbers))]
        numbers[node] = int(number)
        if len(lengths) == 1:
            return (body,)
        payloads, start = [], 0
        for length in map(int, lengths):
            payloads.append(body[start : start + length])
            start += length
        return payloads

    def forget(self, subscription: Subscription) -> None:
        """Drop what is kept for ``subscription``, which has ended."""
        self._numbers.pop(subscription, None)


def _digest(text: bytes) -> str:
    return sha1(text, usedforsecurity=False).hexdigest()[:SIGNATURE_SIZE]
