"""Bounds the sockets of clients, so that a client cannot use up the file descriptors of a node.

A socket is authenticated when its client is admitted as a WebSocket, or has sent the API key. All others are
unauthenticated: those that have sent nothing, idle HTTP connections, and handshakes that wait for the broker. They are
cheap for an attacker. So if all sockets are in use, a new one replaces unauthenticated sockets of the address that has
the most of them, the oldest ones first. New clients are admitted, and health checks are answered, unless an attacker
has more addresses than this node has sockets.

The authenticated sockets never use the spare ones in ``Capacity.sockets``, so there is always one that can be replaced.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final

from aiohttp import web

from ..broker.base import UserId
from ..gateway.gateway import Gateway
from .capacity import Capacity
from .client_address import client_network, peer_network

log = logging.getLogger("roomcast")

#: How many sockets are closed at once if all are in use. To choose them, all addresses are compared, which takes 3 ms
#: for 20,000 addresses.
BATCH: Final = 64
#: The longest time between two lines of the log about sockets that were closed, in seconds.
LOG_INTERVAL: Final = 60.0
#: ``verify`` does nothing for an address with at most this many sockets. That saves 1 us for most handshakes.
FEW: Final = 8
#: The share of all sockets that one address may have before authentication, if the setting allows more.
ADDRESS_SHARE: Final = 4

#: Why sockets were closed: the labels of a metric, and the words of the log.
REASONS: Final = {
    "silent": "sent no whole request within HANDSHAKE_TIMEOUT",
    "address": "were more than one address or user may have before authentication (MAX_UNAUTHENTICATED_PER_ADDRESS)",
    "full": "were replaced by new ones, because all sockets were in use (MAX_CONNECTIONS)",
}


class ConnectionLimit:
    """Counts the sockets of clients on one node, and closes some of them if there are too many.

    The acceptor and the handshake report each socket here, and call ``check`` regularly. ``clock`` returns seconds.
    """

    def __init__(self, gateway: Gateway, capacity: Capacity, clock: Callable[[], float] = time.monotonic) -> None:
        settings = gateway.settings
        self.capacity: Final = capacity
        self._counters: Final = gateway.counters
        self._counters.max_connections = capacity.connections
        self._websockets: Final = gateway.keepalive
        self._trust_proxy: Final = settings.trust_proxy
        share = max(1, capacity.sockets // ADDRESS_SHARE)
        self._per_address: Final = min(settings.max_unauthenticated_per_address, share)
        self._few: Final = min(FEW, self._per_address // 2)
        self._clock: Final = clock
        #: The unauthenticated sockets, each with its key in ``_groups``.
        self._unauthenticated: Final[dict[object, object]] = {}
        #: The unauthenticated sockets of each address, oldest first. The key is an IP address, an IPv6 network, or the
        #: user of a token. A trusted proxy has many clients, so each of its sockets is a group of its own, with itself
        #: as the key.
        self._groups: Final[dict[object, dict[object, asyncio.Transport]]] = {}
        #: HTTP connections that have sent the API key.
        self._authenticated: Final[set[object]] = set()
        #: What the next line of the log reports: closed sockets by reason, and refused WebSockets.
        self._closed: Final[Counter[str]] = Counter()
        self._refused = 0
        self._shortages = 0
        self._last_address: object = None
        self._logs_after = clock()

    # Unauthenticated sockets.

    def add(self, connection: object, transport: asyncio.Transport) -> None:
        """Count a new socket. Close others if there are too many."""
        used = len(self._unauthenticated) + len(self._authenticated) + len(self._websockets.connections)
        if used >= self.capacity.sockets:
            self._make_room()
        peer = transport.get_extra_info("peername")
        network = peer_network(peer[0], self._trust_proxy) if peer and isinstance(peer, tuple) else None
        self._insert(connection, transport, connection if network is None else network)

    def replace(self, connection: object, successor: object) -> None:
        """Count ``successor`` instead of ``connection``, whose socket it has now."""
        key = self._unauthenticated.get(connection)
        if key is not None:
            transport = self._groups[key][connection]
            self.remove(connection)
            self._insert(successor, transport, successor if key is connection else key)

    def identify(self, connection: object, address: str) -> None:
        """Count the socket of a trusted proxy for its client at ``address``, the result of ``client_address``."""
        if self._unauthenticated.get(connection) is connection:
            self._move(connection, client_network(address))

    def verify(self, connection: object, user_id: UserId) -> None:
        """Count the socket for the user of a valid token, not for its address, if that has more than a few sockets.

        Call it when the socket has to wait for the broker, or may have to.
        """
        key = self._unauthenticated.get(connection)
        if key is not None and len(self._groups[key]) > self._few:
            self._move(connection, f"user {user_id}")

    def _move(self, connection: object, key: str) -> None:
        transport = self._groups[self._unauthenticated[connection]][connection]
        self.remove(connection)
        self._insert(connection, transport, key)

    def remove(self, connection: object) -> None:
        """Stop counting a socket that is closed or belongs to a WebSocket now. Do nothing if it is not counted."""
        key = self._unauthenticated.pop(connection, None)
        if key is None:
            self._authenticated.discard(connection)
            return
        group = self._groups[key]
        del group[connection]
        if not group:
            del self._groups[key]

    def _insert(self, connection: object, transport: asyncio.Transport, key: object) -> None:
        self._unauthenticated[connection] = key
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = {connection: transport}
            return
        group[connection] = transport
        if len(group) > self._per_address:
            self.drop(next(iter(group)), "address")

    def drop(self, connection: object, reason: str) -> None:
        """Close an unauthenticated socket at once. ``reason`` is a key of ``REASONS``."""
        self._count(reason)
        key = self._unauthenticated.get(connection)
        if key is None:  # in dev the sockets are not counted
            return
        if key is not connection:
            self._last_address = key
        # Not the transport of ``connection``: aiohttp forgets that when it closes it, before all is sent.
        transport = self._groups[key][connection]
        self.remove(connection)
        transport.abort()

    def _count(self, reason: str) -> None:
        self._closed[reason] += 1
        self._counters.closed_sockets[reason] += 1

    def _make_room(self) -> None:
        """Close some sockets: WebSockets that wait for the answer to a close frame, otherwise unauthenticated ones."""
        closing = list(islice(self._websockets.closing.items(), BATCH))
        for websocket, end in closing:
            del self._websockets.closing[websocket]
            self._count("full")
            websocket.abort(end)
        if closing:  # their file descriptors are free in the next iteration of the event loop
            return
        for connection in self._most_crowded(min(BATCH, 1 + len(self._unauthenticated) // 16)):
            self.drop(connection, "full")

    def _most_crowded(self, count: int) -> list[object]:
        """Return up to ``count`` sockets: each time the oldest one of the group that has the most left."""
        heap = [(-len(group), number, iter(group)) for number, group in enumerate(self._groups.values())]
        heapq.heapify(heap)
        chosen: list[object] = []
        while heap and len(chosen) < count:
            size, number, group = heap[0]
            chosen.append(next(group))
            if size == -1:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (size + 1, number, group))
        return chosen

    # Authenticated clients.

    def authenticate(self, connection: object) -> None:
        """Keep an HTTP connection that has sent the API key, unless this node is full."""
        if connection in self._unauthenticated and not self.is_full:
            self.remove(connection)
            self._authenticated.add(connection)

    @property
    def is_full(self) -> bool:
        """True if no further client can be admitted."""
        websockets = len(self._websockets.connections) - len(self._websockets.closing)
        return websockets + len(self._authenticated) >= self.capacity.connections

    def count_refusal(self) -> None:
        """Count a WebSocket that is refused because this node is full."""
        self._refused += 1

    # Observation.

    def check(self) -> None:
        """Check whether file descriptors are left, and log what was closed. Call it about once a second."""
        try:
            socket.socket().close()
        except OSError:  # EMFILE or ENFILE
            # Plugins or other processes use them. uvloop closes the connections that it cannot accept.
            self._shortages += 1
            self._counters.descriptor_shortages += 1
            self._make_room()
        self._report()

    def _report(self) -> None:
        """Log what happened since the last line, at most once in ``LOG_INTERVAL``."""
        if not (self._closed or self._refused or self._shortages) or self._clock() < self._logs_after:
            return
        self._logs_after = self._clock() + LOG_INTERVAL
        parts = [f"{count} {REASONS[reason]}" for reason, count in sorted(self._closed.items())]
        sentences = []
        if parts:
            where = "" if self._last_address is None else f"; the last one was of {self._last_address}"
            sentences.append(f"closed sockets of clients: {', '.join(parts)}{where}")
        if self._refused:
            limit = self.capacity.connections
            sentences.append(f"refused {self._refused} WebSockets: this node has {limit} (MAX_CONNECTIONS)")
        if self._shortages:
            sentences.append(
                "no file descriptor was left, so connections were not accepted; raise the limit (ulimit -n, or "
                "LimitNOFILE in a systemd unit), or lower MAX_CONNECTIONS"
            )
        level = logging.INFO if self._closed.keys() <= {"silent"} and not self._refused else logging.WARNING
        log.log(logging.ERROR if self._shortages else level, "%s", ". ".join(sentences))
        self._closed.clear()
        self._refused = self._shortages = 0
        self._last_address = None


CONNECTION_LIMIT: Final = web.AppKey("connection_limit", ConnectionLimit)
