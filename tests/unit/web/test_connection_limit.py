"""The limits of sockets, on real servers that have 64 spare sockets."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

import pytest
from handshakes import IN_PARTS, TOKEN, GatedBroker, Running, request, serving
from serving import KEY, PATH, token_for
from wire import Peer, closing

from roomcast.errors import NODE_FULL
from roomcast.protocol.frames import CLOSE
from roomcast.web import capacity, connection_limit
from roomcast.web.client_address import peer_network
from roomcast.web.connection_limit import BATCH, ConnectionLimit

LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
WITH_KEY = f"GET /api/v1/rooms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
#: Many sockets of one address and few of another need several addresses of this machine.
NEEDS_ADDRESSES = pytest.mark.skipif(sys.platform != "linux", reason="other systems have only 127.0.0.1")


MAX_SPARE = 64


@pytest.fixture(autouse=True)
def few_spare_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server have few spare sockets, so that tests can use all of them."""
    monkeypatch.setattr(capacity, "MAX_SPARE", MAX_SPARE)


class Crowd:
    """Clients of one server that connect one after the other from different addresses, and wait."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.limit: ConnectionLimit = running.server.ports[0].acceptor.limit

    async def connect(self, source: str = "127.0.0.1", data: bytes = b"", answer: bytes = b"") -> Peer:
        """Connect from the address ``source`` and send ``data``, and read an answer that begins with ``answer``."""
        peer = await Peer.connect(("127.0.0.1", self.running.server.port), source=source)
        self.running.peers.append(peer)
        if answer:
            await peer.send(data)
            head = await peer.head()
            assert head.startswith(answer), head
            if length := [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]:
                await peer.read(int(length[0].split(b":")[1]))
        else:
            # Until the server has accepted it, so that the order of all sockets is known.
            name = peer.socket.getsockname()
            async with asyncio.timeout(10):
                while not any(self._is_from(one, name) for one in (*self.limit._unauthenticated,)):
                    await asyncio.sleep(0)
        return peer

    @staticmethod
    def _is_from(connection, name: tuple[str, int]) -> bool:
        transport = connection.transport
        return transport is not None and transport.get_extra_info("peername") == name


@contextlib.asynccontextmanager
async def crowd(**options) -> AsyncIterator[Crowd]:
    """Run a server."""
    async with serving(**options) as running:
        yield Crowd(running)


async def is_open(peer: Peer) -> bool:
    """Return True if the server answers a request on the connection of ``peer``."""
    try:
        await peer.send(LIVE)
        return (await peer.head()).startswith(b"HTTP/1.1 200 ")
    except (OSError, EOFError):
        return False


async def count_open(peers: list[Peer]) -> int:
    """Return how many of ``peers`` are connected."""
    return sum([await is_open(peer) for peer in peers])


def closed(running: Running) -> dict[str, int]:
    """Return how many sockets were closed, by the reason."""
    return dict(running.gateway.counters.closed_sockets)


# Full nodes


@IN_PARTS
async def test_a_full_node_refuses_websockets(parts):
    """A WebSocket above MAX_CONNECTIONS is closed with 1013 without a welcome, and admitted when another has left."""
    async with serving(max_connections=2) as running:
        peers = [await running.connected() for _ in range(2)]
        refused = await running.start_handshake(parts)
        assert (await refused.head()).startswith(b"HTTP/1.1 101 ")
        assert await refused.frame() == (CLOSE, b"\x03\xf5Try Again Later")
        assert running.gateway.counters.ends[NODE_FULL] == 1
        await peers[0].send(closing(1000))
        await peers[0].wait_until_closed()
        await running.connected()


async def test_a_full_node_answers_requests():
    """Health checks, the metrics and the HTTP API are served."""
    async with crowd(max_connections=1) as full:
        await full.running.connected()
        for data in (LIVE, LIVE.replace(b"live", b"ready"), WITH_KEY, LIVE.replace(b"health/live", b"metrics")):
            await full.connect(data=data, answer=b"HTTP/1.1 200 ")


async def test_a_full_node_does_not_use_up_tickets():
    """The client can connect to another node with its ticket, or later to this one."""
    async with serving(max_connections=1) as running:
        first = await running.connected()
        await running.broker.put("ticket/abc", json.dumps(TOKEN).encode(), 30.0)
        refused = await running.start_handshake(path=f"{PATH}?ticket=abc")
        await refused.head()
        assert await refused.frame() == (CLOSE, b"\x03\xf5Try Again Later")
        await first.send(closing(1000))
        await first.wait_until_closed()
        await running.connected(path=f"{PATH}?ticket=abc")


async def test_handshakes_that_wait_for_the_broker_do_not_exceed_the_limit():
    """Of two handshakes that were begun when one place was left, one is admitted."""
    broker = GatedBroker()
    async with serving(broker=broker, max_connections=1) as running:
        peers = [await running.start_handshake(path=f"{PATH}?token={token_for(user)}") for user in (1, 2)]
        async with asyncio.timeout(10):
            while len(running.server.ports[0].acceptor._handshakes) < 2:
                await asyncio.sleep(0)
        broker.gate.set()
        ends = set()
        for peer in peers:
            await peer.head()
            opcode, payload = await peer.frame()
            ends.add(payload if opcode == CLOSE else b"welcome")
        assert ends == {b"welcome", b"\x03\xf5Try Again Later"}


# Addresses


async def test_an_address_has_a_limit_before_authentication():
    """The oldest sockets are closed. WebSockets do not count."""
    async with crowd(max_unauthenticated_per_address=5) as one:
        users = [await one.running.connected(path=f"{PATH}?token={token_for(user)}") for user in range(10)]
        peers = [await one.connect() for _ in range(8)]
        for peer in peers[:3]:
            await peer.wait_until_closed()
        assert await count_open(peers[3:]) == 5
        assert closed(one.running) == {"address": 3}
        for user in users:
            await user.send(closing(1000))
            await user.wait_until_closed()


async def test_a_limit_of_one_admits_clients():
    """The socket of a handshake is not closed by its own address's limit."""
    async with crowd(max_unauthenticated_per_address=1) as one:
        silent = await one.connect()
        await one.running.connected()
        await silent.wait_until_closed()


async def test_all_forms_of_http_connections_count():
    """Incomplete requests and idle connections count like silent ones. Nothing is left when all are closed."""
    async with crowd(max_unauthenticated_per_address=3) as one:
        silent = await one.connect()
        incomplete = await one.connect()
        await incomplete.send(b"GET / HT")
        async with asyncio.timeout(10):
            while not one.running.aiohttp_handlers:
                await asyncio.sleep(0)
        idle = await one.connect(data=LIVE, answer=b"HTTP/1.1 200 ")
        assert len(one.limit._unauthenticated) == 3
        assert await one.connect(data=LIVE, answer=b"HTTP/1.1 200 ")
        await silent.wait_until_closed()
        assert await is_open(idle)
        for peer in one.running.peers:
            peer.close()
        await one.running.wait_until_released()
        assert not one.limit._unauthenticated
        assert not one.limit._groups


@pytest.mark.parametrize(
    ("peer", "trust_proxy", "network"),
    [
        ("192.0.2.1", "false", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "false", "2001:db8::/64"),
        ("fe80::1%eth0", "false", "fe80::/64"),
        ("192.0.2.1", "1", None),
        ("192.0.2.1", "192.0.2.0/24", None),
        ("192.0.2.1", "198.51.100.0/24", "192.0.2.1"),
    ],
)
def test_the_network_of_a_peer(peer, trust_proxy, network):
    """An IPv6 /64 is one client, and a trusted proxy has many."""
    assert peer_network(peer, trust_proxy) == network


async def test_the_sockets_of_a_trusted_proxy_are_not_limited_together():
    """They have different clients, which are unknown before the request."""
    async with crowd(max_unauthenticated_per_address=2, trust_proxy="127.0.0.0/8") as proxy:
        peers = [await proxy.connect() for _ in range(6)]
        assert await count_open(peers) == 6


class GatedTickets(GatedBroker):
    """A broker whose tickets are not found before the test sets ``gate``."""

    async def take(self, name: str) -> bytes | None:
        await self.gate.wait()
        return await super().take(name)


async def waiting_handshakes(running: Running, requests: list[dict[str, str]]) -> list[Peer]:
    """Begin a handshake for each of ``requests``, one after the other, which waits for the broker."""
    peers = []
    for change in requests:
        begun = running.server.ports[0].acceptor.limit._unauthenticated
        before = {*begun}
        peers.append(await running.start_handshake(**change))
        async with asyncio.timeout(10):
            while running.server.ports[0].acceptor._silent or not {*begun} - before:
                await asyncio.sleep(0)
    return peers


async def test_handshakes_count_for_the_address_that_a_proxy_reports():
    """Of three waiting handshakes of one client, the oldest is closed. That of another client stays."""
    broker = GatedTickets()
    async with serving(broker=broker, max_unauthenticated_per_address=2, trust_proxy="1") as running:
        clients = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1"]
        path = f"{PATH}?ticket=x"
        peers = await waiting_handshakes(running, [{"path": path, "X_Forwarded_For": client} for client in clients])
        await peers[0].wait_until_closed()
        broker.gate.set()
        for peer in peers[1:]:
            assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert closed(running) == {"address": 1}


async def test_handshakes_with_a_valid_token_count_for_their_user():
    """Many users of one address may wait for the broker. Of one user, the oldest handshakes are closed."""
    broker = GatedBroker()
    async with serving(broker=broker, max_unauthenticated_per_address=2) as running:
        users = [1, 2, 3, 4, 5, 5, 5]
        peers = await waiting_handshakes(running, [{"path": f"{PATH}?token={token_for(user)}"} for user in users])
        await peers[4].wait_until_closed()
        broker.gate.set()
        for number in (0, 1, 2, 3, 5, 6):
            assert (await peers[number].head()).startswith(b"HTTP/1.1 101 ")
        assert closed(running) == {"address": 1}
        assert not running.server.ports[0].acceptor.limit._groups


# All sockets in use


@NEEDS_ADDRESSES
async def test_the_address_with_the_most_sockets_makes_room():
    """Its oldest sockets are closed, not the only socket of another address, although that is older."""
    async with crowd(max_connections=1, max_unauthenticated_per_address=1000) as one:
        single = await one.connect("127.0.0.9")
        share = (1 + MAX_SPARE) // connection_limit.ADDRESS_SHARE
        groups = [[await one.connect(f"127.0.1.{n}") for _ in range(share)] for n in range(4)]
        assert not closed(one.running)  # 65 sockets are allowed, and that many are open
        last = await one.connect("127.0.0.10")
        dropped = closed(one.running)["full"]
        assert 1 <= dropped <= BATCH
        assert await is_open(single)
        assert await is_open(last)
        assert sum([await count_open(group) for group in groups]) == 4 * share - dropped


@NEEDS_ADDRESSES
async def test_a_client_is_admitted_while_all_sockets_are_in_use():
    """A handshake and a health check from an address of their own succeed."""
    async with crowd(max_connections=5) as one:
        for n in range(120):
            await one.connect(f"127.0.1.{n % 60}")
        await one.running.connected()
        await one.connect(data=LIVE, answer=b"HTTP/1.1 200 ")
        assert len(one.limit._unauthenticated) <= one.limit.capacity.sockets


@NEEDS_ADDRESSES
async def test_connections_with_the_api_key_stay_open():
    """Backends keep their connections while idle ones of other clients are closed."""
    async with crowd(max_connections=5) as one:
        backend = [await one.connect(data=WITH_KEY, answer=b"HTTP/1.1 200 ") for _ in range(3)]
        others = [await one.connect(f"127.0.1.{n % 60}", LIVE, b"HTTP/1.1 200 ") for n in range(120)]
        assert await count_open(backend) == 3
        assert closed(one.running)["full"] > 0
        assert await count_open(others) < 120
        for peer in one.running.peers:
            peer.close()
        await one.running.wait_until_released()
        assert not one.limit._authenticated


async def test_connections_with_the_api_key_leave_room_for_clients():
    """Only as many as MAX_CONNECTIONS are kept. The others are as easily replaced as those without the key."""
    async with crowd(max_connections=2) as one:
        for _ in range(4):
            await one.connect(data=WITH_KEY, answer=b"HTTP/1.1 200 ")
        assert len(one.limit._authenticated) == 2
        assert len(one.limit._unauthenticated) == 2


@NEEDS_ADDRESSES
async def test_websockets_that_are_being_closed_make_room_first():
    """Clients that do not answer the close frame lose their sockets before silent ones do."""
    async with crowd(max_connections=5) as one:
        sockets = one.limit.capacity.sockets
        refused = [await one.connect("127.0.2.1", request(f"{PATH}?token=x"), b"HTTP/1.1 101 ") for _ in range(9)]
        silent = [await one.connect(f"127.0.1.{n % 20}") for n in range(sockets - 9)]
        assert not closed(one.running)
        last = await one.connect()
        for peer in refused:
            assert await peer.frame() == (CLOSE, b"\x11\x31Authentication Failed")
            await peer.wait_until_closed()
        assert await count_open([*silent, last]) == sockets - 8
        assert not one.running.gateway.keepalive.closing


# The log


async def test_the_log_has_one_line_a_minute(caplog):
    """The line counts what happened since the last one, and names the limits."""
    caplog.set_level("INFO")
    async with crowd(max_connections=1, max_unauthenticated_per_address=2) as one:
        clock = [0.0]
        limit = ConnectionLimit(one.running.gateway, one.limit.capacity, lambda: clock[0])
        caplog.clear()
        limit.check()
        assert not caplog.messages
        for reason in ("silent", "address", "address", "full"):
            limit._count(reason)
        limit.count_refusal()
        for clock[0] in (0.0, 1.0, 59.0):
            limit.check()
        assert len(caplog.messages) == 1
        for text in ("1 sent no", "2 were more", "MAX_UNAUTHENTICATED_PER_ADDRESS", "refused 1 WebSocket", "has 1 "):
            assert text in caplog.messages[0]
        limit._count("silent")
        limit.check()
        clock[0] = 61.0
        limit.check()
        limit.check()
        assert len(caplog.messages) == 2
        assert caplog.records[1].levelname == "INFO"


async def test_dropped_sockets_are_logged_together(caplog):
    """Silent sockets that were dropped in the same check are in one line."""
    caplog.set_level("INFO")
    async with crowd(handshake_timeout=0.2) as one:
        for peer in [await one.connect() for _ in range(20)]:
            await peer.wait_until_closed()
        async with asyncio.timeout(10):
            while not any("sent no whole request" in message for message in caplog.messages):
                await asyncio.sleep(0.01)
        assert len([message for message in caplog.messages if "sent no whole request" in message]) == 1
        assert closed(one.running) == {"silent": 20}
