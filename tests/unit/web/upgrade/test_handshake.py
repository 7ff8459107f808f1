"""The handshake on real servers: admissions, refusals, and that aiohttp keeps nothing of the connection."""

import asyncio
import base64
import contextlib
import gc
import json
import ssl
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web import RequestHandler
from handshakes import ACCEPT, IN_PARTS, TOKEN, GatedBroker, Running, request, serving
from serving import PATH, SECRET, new_gateway, token_for
from waiting import wait_until
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wire import PATIENCE, Peer, closing, masked

from roomcast.auth.identity import make_token
from roomcast.broker.base import History
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import AUTHENTICATION_FAILED
from roomcast.protocol.frames import BINARY, CLOSE, PING, TEXT, FrameReader
from roomcast.transport.connection import MAX_READ_AFTER_END
from roomcast.web.port import Address
from roomcast.web.server import Server
from roomcast.web.upgrade.acceptor import PendingConnection

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop",)

# Handshakes


async def test_the_handshake_of_the_rfc():
    """The key of RFC 6455 section 1.3 gets its answer. The ``connected`` frame follows, and commands work."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request())
        head = await peer.head()
        status, *headers = head.rstrip().split(b"\r\n")
        assert status == b"HTTP/1.1 101 Switching Protocols"
        assert sorted(headers) == [b"Connection: Upgrade", ACCEPT, b"Upgrade: websocket"]
        welcome = {"message": "Connected successfully", "user_id": 1, "username": "alice"}
        assert (await peer.event())["data"].items() >= welcome.items()
        await peer.send(masked(TEXT, b'{"type":"ping"}'))
        assert (await peer.event())["type"] == "pong"


async def test_frames_in_the_packet_of_the_request_are_answered():
    """The frames may be complete or cut in the middle. The answers follow the ``connected`` frame."""
    ping = masked(TEXT, b'{"type":"ping"}')
    async with serving() as running:
        for early in (ping, ping + ping[:9], ping[:1]):
            peer = await running.peer()
            await peer.send(request() + early)
            await peer.head()
            assert (await peer.event())["type"] == "connected"
            await peer.send((ping * 2)[len(early) :])
            assert [(await peer.event())["type"], (await peer.event())["type"]] == ["pong", "pong"]


async def test_many_frames_after_the_request_are_answered():
    """aiohttp pauses reading when there are many frames, and the connection resumes it."""
    message = masked(TEXT, b'{"type":"ping"}')
    count = 20_000
    async with serving(ws_message_rate=0) as running:
        peer = await running.peer()
        sending = asyncio.create_task(peer.send(request() + message * count))
        await peer.head()
        assert (await peer.event())["type"] == "connected"
        for _ in range(count):
            assert (await peer.event())["type"] == "pong"
        await sending


async def test_a_close_in_the_packet_of_the_request_is_answered():
    """A client may close the connection before it is admitted."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request() + closing(1001))
        await peer.head()
        assert await peer.closed_with() == (1001, "")
        assert await peer.closes_cleanly()
        await running.wait_until_ended()


async def test_a_request_may_arrive_byte_by_byte():
    """The handshake succeeds. Its Connection header may list more than Upgrade, in any case."""
    async with serving() as running:
        peer = await running.peer()
        for byte in request(Connection="keep-alive, UPGRADE", Upgrade="WebSocket"):
            await peer.send(bytes([byte]))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.event())["type"] == "connected"


async def test_a_handshake_may_follow_another_request():
    """A connection that is kept alive after its first response can become a WebSocket."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + request())
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 404 ")
        size = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await peer.read(size)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await peer.event())["type"] == "connected"


# Requests that are not handshakes

NOT_A_HANDSHAKE = {
    "no upgrade": ({"Connection": None, "Upgrade": None}, 426, b"Upgrade: websocket"),
    "upgrade to something else": ({"Upgrade": "h2c"}, 426, b"Upgrade: websocket"),
    "Upgrade, but no Connection": ({"Connection": "keep-alive"}, 426, b"Upgrade: websocket"),
    "old version": ({"Sec_WebSocket_Version": "8"}, 426, b"Sec-WebSocket-Version: 13"),
    "no version": ({"Sec_WebSocket_Version": None}, 426, b"Sec-WebSocket-Version: 13"),
    "no key": ({"Sec_WebSocket_Key": None}, 400, b""),
    "key of 15 bytes": ({"Sec_WebSocket_Key": base64.b64encode(bytes(15)).decode()}, 400, b""),
    "key that is not base64": ({"Sec_WebSocket_Key": "!" * 24}, 400, b""),
    "key that is not ASCII": ({"Sec_WebSocket_Key": "é" * 24}, 400, b""),
    "wrong method": ({"method": "POST"}, 405, b""),
}


@pytest.mark.parametrize(("change", "status", "header"), NOT_A_HANDSHAKE.values(), ids=NOT_A_HANDSHAKE)
async def test_a_request_that_is_not_a_handshake_is_refused(change, status, header):
    """The request gets an HTTP error (RFC 6455 section 4.2.1). No client is admitted and no slot is taken."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request(**change))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert header in head
        assert not running.gateway.keepalive.connections
        assert await running.broker.admit(1, 99, 1)


# Tokens


async def test_a_token_in_the_query():
    """A token in the URL connects, as in the first example of docs/protocol.md."""
    async with serving() as running, connect(f"{running.url}?token={TOKEN}") as client:
        assert json.loads(await client.recv())["data"]["username"] == "alice"
        assert client.subprotocol is None


async def test_a_token_in_the_authorization_header():
    """The token is accepted with a scheme in any case."""
    async with serving() as running:
        for scheme in ("Bearer", "bearer"):
            async with connect(running.url, additional_headers={"Authorization": f"{scheme} {TOKEN}"}) as client:
                assert json.loads(await client.recv())["type"] == "connected"


async def test_a_token_in_the_subprotocols():
    """The response confirms bearer and does not repeat the token."""
    async with serving() as running, connect(running.url, subprotocols=["bearer", TOKEN]) as client:
        assert json.loads(await client.recv())["type"] == "connected"
        assert client.subprotocol == "bearer"


OFFERS = {
    "in two header lines": (["bearer", TOKEN], "bearer"),
    "in two header lines, the second with more": (["bearer", f"{TOKEN}, json"], "bearer"),
    "split over two lines after another one": (["json, bearer", TOKEN], "bearer"),
    "before another one": ([f"bearer, {TOKEN}, json"], "bearer"),
    "after another one": ([f"json, bearer, {TOKEN}"], "bearer"),
    "capitalised": ([f"Bearer, {TOKEN}"], "Bearer"),
    "in upper case, without blanks": ([f"json,BEARER,{TOKEN}"], "BEARER"),
    "after 98 empty elements": ([f"{',' * 98}bearer, {TOKEN}"], "bearer"),
    "with empty elements": ([f", bearer, , {TOKEN},"], "bearer"),
}


@IN_PARTS
@pytest.mark.parametrize(("lines", "selected"), OFFERS.values(), ids=OFFERS)
async def test_the_pair_is_found_wherever_it_is_offered(parts, lines, selected):
    """The response selects bearer as the client wrote it (RFC 6455 section 4.1), and does not repeat the token."""
    async with serving() as running:
        head = "\r\nSec-WebSocket-Protocol: ".join(lines)
        peer = await running.start_handshake(parts, path=PATH, Sec_WebSocket_Protocol=head)
        answer = (await peer.head()).decode()
        assert f"\r\nSec-WebSocket-Protocol: {selected}\r\n" in answer
        assert TOKEN not in answer
        assert (await peer.event())["type"] == "connected"


@pytest.mark.parametrize("offer", ["chat", f"chat, {TOKEN}", f"bearerx, {TOKEN}", ""])
async def test_other_subprotocols_are_not_selected(offer):
    """roomcast speaks none of them, so the response selects none."""
    async with serving() as running:
        peer = await running.start_handshake(Sec_WebSocket_Protocol=offer)
        assert b"Sec-WebSocket-Protocol" not in await peer.head()
        assert (await peer.event())["type"] == "connected"


async def test_a_ticket_is_valid_once():
    """The broker stores the token under the name of the ticket."""
    async with serving() as running:
        await running.broker.put("ticket/abc", json.dumps(TOKEN).encode(), 30.0)
        async with connect(f"{running.url}?ticket=abc") as client:
            assert json.loads(await client.recv())["type"] == "connected"
        async with connect(f"{running.url}?ticket=abc") as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 4401


REFUSED = {
    "no token": (PATH, {}),
    "empty token": (f"{PATH}?token=", {}),
    "garbage": (f"{PATH}?token=garbage", {}),
    "garbage of another alphabet": (f"{PATH}?token=%ff%00%0d%0a", {}),
    "wrong signature": (f"{PATH}?token={make_token(SECRET[::-1], user_id=1)}", {}),
    "expired": (f"{PATH}?token={token_for(expires_in=-1)}", {}),
    "unknown ticket": (f"{PATH}?ticket=nope", {}),
    "basic authorization": (PATH, {"Authorization": "Basic YWxpY2U6c2VjcmV0"}),
    "bearer without a token": (PATH, {"Sec_WebSocket_Protocol": "bearer"}),
    "bearer after the token": (PATH, {"Sec_WebSocket_Protocol": f"{TOKEN}, bearer"}),
    "token under another subprotocol": (PATH, {"Sec_WebSocket_Protocol": f"chat, {TOKEN}"}),
    "a bad token, a good one in another place": (f"{PATH}?token=x", {"Authorization": f"Bearer {TOKEN}"}),
}


@pytest.mark.parametrize(("path", "headers"), REFUSED.values(), ids=REFUSED)
async def test_a_refused_token_is_closed_with_4401_after_the_upgrade(path, headers):
    """The close frame follows the 101 without a ``connected`` frame, and aiohttp releases the connection."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request(path, **headers))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.frame() == (CLOSE, b"\x11\x31Authentication Failed")
        await peer.send(masked(TEXT, b'{"type":"ping"}') + closing(4401))
        assert await peer.closes_cleanly()
        await running.wait_until_ended()
        await running.wait_until_released()
        assert running.gateway.counters.ends == {AUTHENTICATION_FAILED: 1}


@IN_PARTS
async def test_many_frames_of_a_refused_client_are_not_parsed(parts, monkeypatch):
    """Of what follows the request, no more is parsed than of any connection that is closing."""
    sizes = []
    feed = FrameReader.feed
    monkeypatch.setattr(FrameReader, "feed", lambda reader, data: sizes.append(len(data)) or feed(reader, data))
    async with serving() as running:
        peer, data = await running.peer(), request(PATH) + masked(TEXT) * 20_000
        for part in (data,) if parts == 1 else (data[:50], data[50:]):
            await peer.send(part)
            await wait_until(lambda: parts == 1 or running.aiohttp_handlers)
        await peer.head()
        assert await peer.closed_with() == (4401, "Authentication Failed")
        assert sum(sizes) <= MAX_READ_AFTER_END


async def test_frames_of_a_refused_client_are_ignored():
    """A refused client receives the close frame, even if it sent invalid frames after the request."""
    async with serving() as running:
        for early in (masked(TEXT, b'{"type":"ping"}'), masked(BINARY, b"x"), b"\xff" * 100):
            peer = await running.peer()
            await peer.send(request(PATH) + early)
            await peer.head()
            assert await peer.closed_with() == (4401, "Authentication Failed")


@pytest.mark.parametrize("offered", [["bearer", "garbage"], ["bearer"], ["json", "bearer", "garbage"]])
async def test_a_refusal_confirms_the_subprotocol(offered):
    """Without the confirmation, the browser would report 1006 and not the reason."""
    async with serving() as running, connect(running.url, subprotocols=offered) as client:
        assert client.subprotocol == "bearer"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "Authentication Failed")


async def test_a_broker_that_fails_is_4500():
    """The connection is closed with 4500, and the client may connect again."""

    class FailingBroker(MemoryBroker):
        async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
            raise RuntimeError("out of order")

    async with serving(broker=FailingBroker()) as running:
        peer = await running.peer()
        await peer.send(request())
        await peer.head()
        assert await peer.frame() == (CLOSE, b"\x11\x94Internal Server Error")


# Origins


@pytest.mark.parametrize(
    ("allowed", "origin", "is_admitted"),
    [
        ((), None, True),
        ((), "http://localhost", True),
        ((), "http://LOCALHOST", True),
        ((), "http://localhost:3000", False),
        ((), "https://evil.example", False),
        ((), "https://localhost.evil.example", False),
        ((), "null", False),
        ((), "", False),
        ((), "http://[", False),
        (("https://app.example",), "https://app.example", True),
        (("https://app.example",), "https://APP.example", True),
        (("https://app.example",), "http://app.example", False),
        (("https://app.example",), "http://localhost", True),
        (("https://*.app.example",), "https://a.b.app.example", True),
        (("https://*.app.example",), "https://evil-app.example", False),
        (("http://localhost:*",), "http://localhost:5173", True),
        (("null",), "null", True),
        (("https://app.example",), "https://app.example.evil.example", False),
        (("https://app.example",), None, True),
        (("*",), "https://anything.example", True),
        (("*",), "null", True),
    ],
)
async def test_pages_of_other_sites_are_refused_before_the_upgrade(allowed, origin, is_admitted):
    """Such pages get 403, even with a valid token. Programs, which send no Origin, are admitted."""
    async with serving(allowed_origins=allowed) as running:
        peer = await running.peer()
        await peer.send(request(Origin=origin))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 101 " if is_admitted else b"HTTP/1.1 403 ")
        assert bool(running.gateway.keepalive.connections) is is_admitted


# The limit of connections


async def test_a_connection_above_the_limit_is_4429():
    """MAX_CONNECTIONS_PER_USER applies to each user. A connection that ends frees its slot."""
    async with (
        serving(max_connections_per_user=2) as running,
        connect(f"{running.url}?token={TOKEN}") as first,
        connect(f"{running.url}?token={TOKEN}"),
    ):
        third = await running.peer()
        await third.send(request())
        await third.head()
        assert await third.frame() == (CLOSE, b"\x11\x4dToo Many Connections")
        await running.connected(path=f"{PATH}?token={token_for(2)}")
        await first.close()
        async with connect(f"{running.url}?token={TOKEN}"):
            fifth = await running.peer()
            await fifth.send(request())
            await fifth.head()
            assert (await fifth.closed_with())[0] == 4429


async def test_refused_connections_take_no_slot():
    """After several refusals, the slot of a connection that ends is free again."""
    async with serving(max_connections_per_user=1) as running:
        async with connect(f"{running.url}?token={TOKEN}"):
            for _ in range(3):
                peer = await running.peer()
                await peer.send(request())
                await peer.head()
                assert (await peer.closed_with())[0] == 4429
                peer.close()
        await running.wait_until_ended()
        await running.connected()


# Clients that disconnect, send slowly, or send early


@IN_PARTS
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_disconnects_during_the_handshake_leaves_nothing(how, parts):
    """No slot, no connection, no subscription and no request in aiohttp remain."""
    broker = GatedBroker()
    async with serving(broker=broker) as running:
        peer = await running.start_handshake(parts)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            pending = running.pending_connection()
            getattr(peer, how)()
            while pending.transport is not None:
                await asyncio.sleep(0)
        broker.gate.set()
        await running.wait_until_released()
        assert not running.gateway.keepalive.connections
        assert not running.gateway.delivery.personal
        assert not running.gateway.rooms.subscriptions._joining
        assert await broker.admit(1, 99, 1), "its slot is free"


class HangingBroker(MemoryBroker):
    """A broker whose ``stage`` never returns. ``admitted`` is the number of leases."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.reached = asyncio.Event()
        self.admitted = 0

    async def _pass(self, stage: str) -> None:
        if stage == self.stage:
            self.reached.set()
            await asyncio.Event().wait()

    async def is_revoked(self, *args: Any) -> bool:
        await self._pass("is_revoked")
        return await super().is_revoked(*args)

    async def admit(self, *args: Any) -> bool:
        await self._pass("admit")
        self.admitted += 1
        return await super().admit(*args)

    async def release(self, *args: Any) -> None:
        self.admitted -= 1
        await super().release(*args)

    async def subscribe(self, *args: Any) -> None:
        await self._pass("subscribe")
        await super().subscribe(*args)

    async def history(self, *args: Any, **options: Any) -> History:
        await self._pass("history")
        return await super().history(*args, **options)

    async def take(self, key: str) -> bytes | None:
        await self._pass("take")
        return await super().take(key)

    def leaves_nothing(self, running: Running) -> bool:
        """Return True if no handshake holds anything."""
        gateway = running.gateway
        return not (
            running.pending
            or self.admitted
            or gateway.keepalive.connections
            or gateway.delivery.personal
            or gateway.rooms.subscriptions._joining
            or gateway.sessions._missed
        )


STAGES = pytest.mark.parametrize("stage", ["take", "is_revoked", "admit", "subscribe", "history"])


@STAGES
@IN_PARTS
async def test_a_broker_that_hangs_is_4500_after_the_timeout(parts, stage):
    """HANDSHAKE_TIMEOUT includes the wait for the broker. The handshake releases everything that it has taken."""
    broker = HangingBroker(stage)
    credentials = "ticket=x" if stage == "take" else f"token={TOKEN}"
    async with serving(broker=broker, handshake_timeout=0.4) as running:
        peer = await running.start_handshake(parts, path=f"{PATH}?{credentials}&since=1-1")
        await peer.head()
        assert await peer.frame() == (CLOSE, b"\x11\x94Internal Server Error")
        await peer.send(closing(4500))
        await wait_until(lambda: broker.leaves_nothing(running))


@STAGES
@IN_PARTS
async def test_a_client_that_leaves_while_the_broker_hangs(parts, stage):
    """The handshake ends before its timeout, and releases everything that it has taken."""
    broker = HangingBroker(stage)
    credentials = "ticket=x" if stage == "take" else f"token={TOKEN}"
    async with serving(broker=broker, handshake_timeout=1000) as running:
        peer = await running.start_handshake(parts, path=f"{PATH}?{credentials}&since=1-1")
        await broker.reached.wait()
        peer.reset()
        await wait_until(lambda: broker.leaves_nothing(running))


@IN_PARTS
async def test_frames_during_the_handshake_are_answered(parts):
    """Frames that arrive between the request and the 101 are answered after it."""
    broker = GatedBroker()
    async with serving(broker=broker) as running:
        peer = await running.start_handshake(parts)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await peer.send(masked(TEXT, b'{"type":"ping"}'))
            pending = running.pending_connection()
            while not (pending._early if isinstance(pending, PendingConnection) else pending._message_tail):
                await asyncio.sleep(0)
        broker.gate.set()
        await peer.head()
        assert [(await peer.event())["type"], (await peer.event())["type"]] == ["connected", "pong"]


@IN_PARTS
async def test_many_frames_during_the_handshake_pause_reading(parts):
    """The connection resumes reading, and all frames are answered."""
    broker = GatedBroker()
    ping, count = masked(PING, bytes(100)), 6000
    async with serving(broker=broker, ws_max_buffer=1 << 30, ws_message_rate=0) as running:
        peer = await running.start_handshake(parts)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            sending = asyncio.create_task(peer.send(ping * count + closing(1000)))
            pending = running.pending_connection()
            while pending.transport.is_reading():
                await asyncio.sleep(0)
        broker.gate.set()
        await peer.head()
        assert (await peer.event())["type"] == "connected"
        for _ in range(count):
            assert await peer.pong() == bytes(100)
        assert await peer.closed_with() == (1000, "")
        await sending


@pytest.mark.parametrize("sent", [b"", b"G", request()[:-1], b"POST /x HTTP/1.1\r\nHost: a\r\n"])
async def test_an_incomplete_request_is_dropped(sent):
    """The connection is closed after HANDSHAKE_TIMEOUT without a response. Clients stay connected."""
    async with serving(handshake_timeout=0.1) as running:
        served = await running.connected()
        peer = await running.peer()
        await peer.send(sent)
        await peer.wait_until_closed()
        await running.wait_until_released()
        await served.send(masked(TEXT, b'{"type":"ping"}'))
        assert (await served.event())["type"] == "pong"


async def test_slow_bytes_do_not_extend_the_timeout():
    """Otherwise an attacker could keep connections open by sending slowly (slowloris)."""
    async with serving(handshake_timeout=0.1) as running:
        peer = await running.peer()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                await peer.send(b"GET / HTTP/1.1\r\n")
                while True:
                    await peer.send(b"X")
                    await asyncio.sleep(0.005)
        await running.wait_until_released()


# The dependence on aiohttp


@pytest.mark.slow
async def test_aiohttp_has_the_internals_that_the_handshake_relies_on():
    """After the 101 aiohttp has released the connection, and its request is not in memory.

    The attributes of ``RequestHandler`` that roomcast uses exist and have their expected values. The transport belongs
    to the connection and works. After a garbage collection no handler, request or task remains.
    """
    async with serving(handshake_timeout=2.0) as running:
        idle = await running.peer()
        await idle.send(b"G")
        async with asyncio.timeout(PATIENCE):
            while not running.aiohttp_handlers:
                await asyncio.sleep(0)
        (handler,) = running.aiohttp_handlers
        for name in ("_message_tail", "_request_count", "transport", "connection_lost", "force_close"):
            assert hasattr(handler, name), f"aiohttp's RequestHandler has no {name} any more"
        assert handler._message_tail == b""
        assert handler._request_count == 0
        del handler
        idle.close()
        await running.wait_until_released()

        before = len(asyncio.all_tasks())
        peers = [await running.start_handshake(2) for _ in range(2)] + [await running.start_handshake()]
        for peer in peers:
            assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
            assert (await peer.event())["type"] == "connected"
        await running.wait_until_released()
        assert len(running.gateway.keepalive.connections) == 3
        assert len(asyncio.all_tasks()) == before, "a connection has no task"
        async with asyncio.timeout(PATIENCE):
            while any(
                isinstance(one, web.BaseRequest | RequestHandler | PendingConnection) for one in gc.get_objects()
            ):
                await asyncio.sleep(0.01)  # the timeout task releases incomplete requests in its next round
                gc.collect()
        for peer in peers:
            await peer.send(masked(TEXT, b'{"type":"ping"}'))
            assert (await peer.event())["type"] == "pong"


async def test_an_ended_connection_is_not_in_memory():
    """After a close, a reset or a protocol error, nothing refers to the connection."""
    # Exceptions of other tests may still refer to their connections.
    others = {id(one) for one in gc.get_objects()}
    async with serving() as running:
        peers = [await running.connected() for _ in range(3)]
        kinds = {type(one) for one in running.gateway.keepalive.connections}
        await peers[0].send(closing(1000))
        peers[1].reset()
        await peers[2].send(masked(BINARY, b"x"))
        await peers[2].closed_with()
        peers[2].close()
        await running.wait_until_ended()
        await asyncio.sleep(0)
        gc.collect()
        assert [one for one in gc.get_objects() if type(one) in kinds and id(one) not in others] == []


# TLS and Unix sockets


async def test_handshakes_over_tls(certificate, server_tls):
    """Admission, commands, closes by both sides and a refusal work over TLS."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(address=Address(port=0, tls=server_tls)) as running:
        url = running.url.replace("ws://", "wss://")
        async with connect(f"{url}?token={TOKEN}", ssl=trust) as client:
            assert json.loads(await client.recv())["type"] == "connected"
            await client.send('{"type":"ping"}')
            assert json.loads(await client.recv())["type"] == "pong"
            await running.wait_until_released()
        assert client.close_code == 1000
        async with connect(f"{url}?token=x", ssl=trust) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 4401
        async with connect(f"{url}?token={TOKEN}", ssl=trust) as client:
            await client.recv()
            await client.send("x" * 1_000_000)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd.code == 1009
        await running.wait_until_ended()


async def test_a_client_that_never_begins_tls_is_dropped(server_tls):
    """HANDSHAKE_TIMEOUT applies to the TLS handshake too."""
    async with serving(address=Address(port=0, tls=server_tls), handshake_timeout=0.2) as running:
        peer = await running.peer()
        await peer.wait_until_closed()


async def test_a_handshake_on_a_unix_socket(tmp_path):
    """The client is admitted, and its address is "unix"."""
    path = tmp_path / "roomcast.sock"
    async with serving(address=Address(unix_socket=path)) as running:
        async with unix_connect(str(path), uri=f"ws://localhost{PATH}?token={TOKEN}") as client:
            assert json.loads(await client.recv())["type"] == "connected"
            assert [one.remote for one in running.gateway.keepalive.connections] == ["unix"]
        await running.wait_until_ended()


async def test_a_port_in_use_fails_the_start():
    """``start`` raises the system's error and stops what it has started."""
    async with serving() as running:
        before = asyncio.all_tasks()
        second = Server(new_gateway(), Address(port=running.server.port))
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


# Shutdown


async def test_a_shutdown_closes_all_clients_with_1012():
    """After the close frames connections are refused, and ``stop`` returns."""
    async with serving(max_connections_per_user=20) as running:
        peers = [await running.connected() for _ in range(10)]
        port = running.server.port
        stopping = asyncio.create_task(running.server.stop())
        for peer in peers:
            assert await peer.frame() == (CLOSE, b"\x03\xf4Service Restart")
            await peer.send(closing(1012))
            assert await peer.closes_cleanly()
        async with asyncio.timeout(PATIENCE):
            await stopping
        with pytest.raises(ConnectionRefusedError):
            await Peer.connect(("127.0.0.1", port))


async def test_a_shutdown_takes_drain_seconds():
    """The clients are closed one after the other over DRAIN_SECONDS. The last one is served until then."""
    async with serving(max_connections_per_user=20, drain_seconds=0.5) as running:
        peers = [await running.connected() for _ in range(5)]
        stopping = asyncio.create_task(running.server.stop())
        assert await peers[0].frame() == (CLOSE, b"\x03\xf4Service Restart")
        assert not stopping.done()
        await peers[-1].send(masked(TEXT, b'{"type":"ping"}'))
        assert (await peers[-1].event())["type"] == "pong"
        for peer in peers[1:]:
            assert await peer.frame() == (CLOSE, b"\x03\xf4Service Restart")
        for peer in peers:
            await peer.send(closing(1012))
        async with asyncio.timeout(PATIENCE):
            await stopping


@IN_PARTS
async def test_a_client_in_a_handshake_is_closed_with_1012(parts):
    """During a shutdown such a client gets no ``connected`` frame and takes no slot."""
    broker = GatedBroker()
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.start_handshake(parts)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
        stopping = asyncio.create_task(running.server.stop())
        await asyncio.sleep(0)
        assert running.gateway.is_draining
        broker.gate.set()
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.frame() == (CLOSE, b"\x03\xf4Service Restart")
        await peer.send(closing(1012))
        async with asyncio.timeout(PATIENCE):
            await stopping


async def test_a_shutdown_drops_connections_without_a_request():
    """Silent connections and incomplete requests do not delay it."""
    async with serving() as running:
        idle, half = await running.peer(), await running.peer()
        await half.send(request()[:20])
        async with asyncio.timeout(PATIENCE):
            while running.pending < 2 or not running.aiohttp_handlers:
                await asyncio.sleep(0)
            await running.server.stop()
        await idle.wait_until_closed()
        await half.wait_until_closed()


async def test_the_response_to_a_refused_origin_names_the_setting():
    """The body, which a WebSocket library shows to the developer, contains ALLOWED_ORIGINS."""
    async with serving() as running:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{running.url}?token={TOKEN}", origin="https://evil.example")
        assert refused.value.response.status_code == 403
        assert b"ALLOWED_ORIGINS" in refused.value.response.body
