"""The handshake on real servers: who gets in and how, who is told why not, and that aiohttp lets go of them."""

import asyncio
import base64
import contextlib
import gc
import json
import ssl

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import RequestHandler
from handshakes import (
    ACCEPT,
    PATH,
    SECRET,
    TOKEN,
    WAYS,
    Slow,
    event,
    request,
    serving,
)
from multidict import CIMultiDict
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wire import PATIENCE, Peer, closing, masked

from roomcast.auth.identity import make_token
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import AUTHENTICATION_FAILED
from roomcast.gateway.gateway import Gateway
from roomcast.protocol.frames import BINARY, CLOSE, PING, TEXT
from roomcast.registry import load
from roomcast.settings import Settings
from roomcast.web.request_head import remote_address
from roomcast.web.server import Address, Server
from roomcast.web.upgrade.acceptor import PendingConnection

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop",)

# A handshake.


async def test_the_answer_is_the_rfcs():
    """Section 1.3's key and its answer; then the greeting, and commands work."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request())
        head = await peer.head()
        status, *headers = head.rstrip().split(b"\r\n")
        assert status == b"HTTP/1.1 101 Switching Protocols"
        assert sorted(headers) == [b"Connection: Upgrade", ACCEPT, b"Upgrade: websocket"]
        assert (await event(peer))["data"] == {
            "message": "Connected successfully",
            "user_id": 1,
            "username": "alice",
        }
        await peer.send(masked(TEXT, b'{"type":"ping"}'))
        assert (await event(peer))["type"] == "pong"


async def test_what_comes_right_behind_the_head_is_not_lost():
    """In the same packet, whole or cut in the middle of a frame; it is answered after the greeting."""
    ping = masked(TEXT, b'{"type":"ping"}')
    async with serving() as running:
        for early in (ping, ping + ping[:9], ping[:1]):
            peer = await running.peer()
            await peer.send(request() + early)
            await peer.head()
            assert (await event(peer))["type"] == "connected"
            await peer.send((ping * 2)[len(early) :])
            assert [(await event(peer))["type"], (await event(peer))["type"]] == ["pong", "pong"]


async def test_very_much_behind_the_head_is_not_lost():
    """So much that aiohttp stops reading: the connection reads on."""
    message = masked(TEXT, b'{"type":"ping"}')
    count = 20_000
    async with serving(ws_message_rate=0) as running:
        peer = await running.peer()
        sending = asyncio.create_task(peer.send(request() + message * count))
        await peer.head()
        assert (await event(peer))["type"] == "connected"
        for _ in range(count):
            assert (await event(peer))["type"] == "pong"
        await sending


async def test_a_close_right_behind_the_head_is_answered():
    """The client has changed its mind before it was let in."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request() + closing(1001))
        await peer.head()
        assert await peer.closed_with() == (1001, "")
        assert await peer.hung_up()
        await running.emptied()


async def test_the_head_may_come_byte_by_byte():
    """And the Connection header may list more than Upgrade, in any case."""
    async with serving() as running:
        peer = await running.peer()
        for byte in request(Connection="keep-alive, UPGRADE", Upgrade="WebSocket"):
            await peer.send(bytes([byte]))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await event(peer))["type"] == "connected"


async def test_a_request_after_another_on_one_connection_is_upgraded():
    """HTTP keep-alive: a page was fetched before."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + request())
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 404 ")
        size = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await peer.read(size)
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert (await event(peer))["type"] == "connected"


# Requests that are no handshake.

NOT_A_HANDSHAKE = {
    "no upgrade": ({"Connection": None, "Upgrade": None}, 426, b"Upgrade: websocket"),
    "upgrade to something else": ({"Upgrade": "h2c"}, 426, b"Upgrade: websocket"),
    "Upgrade, but no Connection": ({"Connection": "keep-alive"}, 426, b"Upgrade: websocket"),
    "old version": ({"Sec_WebSocket_Version": "8"}, 426, b"Sec-WebSocket-Version: 13"),
    "no version": ({"Sec_WebSocket_Version": None}, 426, b"Sec-WebSocket-Version: 13"),
    "no key": ({"Sec_WebSocket_Key": None}, 400, b""),
    "key of 15 bytes": ({"Sec_WebSocket_Key": base64.b64encode(bytes(15)).decode()}, 400, b""),
    "key that is no base64": ({"Sec_WebSocket_Key": "!" * 24}, 400, b""),
    "key that is no ASCII": ({"Sec_WebSocket_Key": "é" * 24}, 400, b""),
    "wrong method": ({"method": "POST"}, 405, b""),
}


@pytest.mark.parametrize(("change", "status", "header"), NOT_A_HANDSHAKE.values(), ids=NOT_A_HANDSHAKE)
async def test_what_is_no_handshake_is_refused_with_its_reason(change, status, header):
    """Section 4.2.1; nobody is admitted, and no lease is taken."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request(**change))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert header in head
        assert not running.gateway.keepalive.connections
        assert await running.broker.admit(1, 99, 1)


# Tokens.


async def test_a_token_in_the_query():
    """A token in the URL connects, as in the first example of docs/protocol.md."""
    async with serving() as running, connect(f"{running.url}?token={TOKEN}") as client:
        assert json.loads(await client.recv())["data"]["username"] == "alice"
        assert client.subprotocol is None


async def test_a_token_in_the_authorization_header():
    """As programs send it; the scheme in any case."""
    async with serving() as running:
        for scheme in ("Bearer", "bearer"):
            async with connect(running.url, additional_headers={"Authorization": f"{scheme} {TOKEN}"}) as client:
                assert json.loads(await client.recv())["type"] == "connected"


async def test_a_token_in_the_subprotocols():
    """As a browser can; bearer is confirmed, the token is not sent back."""
    async with serving() as running, connect(running.url, subprotocols=["bearer", TOKEN]) as client:
        assert json.loads(await client.recv())["type"] == "connected"
        assert client.subprotocol == "bearer"


async def test_a_ticket_is_good_for_once():
    """What the broker keeps under its name is the token."""
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
    "expired": (f"{PATH}?token={make_token(SECRET, user_id=1, expires_in=-1)}", {}),
    "unknown ticket": (f"{PATH}?ticket=nope", {}),
    "basic authorization": (PATH, {"Authorization": "Basic YWxpY2U6c2VjcmV0"}),
    "bearer without a token": (PATH, {"Sec_WebSocket_Protocol": "bearer"}),
    "token under another subprotocol": (PATH, {"Sec_WebSocket_Protocol": f"chat, {TOKEN}"}),
    "a bad token, a good one in another place": (f"{PATH}?token=x", {"Authorization": f"Bearer {TOKEN}"}),
}


@pytest.mark.parametrize(("path", "headers"), REFUSED.values(), ids=REFUSED)
async def test_a_refused_token_is_told_so_after_the_upgrade(path, headers):
    """101, then close 4401 and its reason, with no connected frame before it; and aiohttp lets go."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(request(path, **headers))
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.frame() == (CLOSE, b"\x11\x31Authentication Failed")
        await peer.send(masked(TEXT, b'{"type":"ping"}') + closing(4401))
        assert await peer.hung_up()
        await running.emptied()
        await running.settled()
        assert running.gateway.counters.ends == {AUTHENTICATION_FAILED: 1}


async def test_a_refused_client_that_sent_early_is_told_so_too():
    """What it sent behind the head is not carried out, however wrong."""
    async with serving() as running:
        for early in (masked(TEXT, b'{"type":"ping"}'), masked(BINARY, b"x"), b"\xff" * 100):
            peer = await running.peer()
            await peer.send(request(PATH) + early)
            await peer.head()
            code, _ = await peer.closed_with()
            assert code in (4401, 1002, 1003)
        peer = await running.peer()
        await peer.send(request(PATH) + masked(TEXT, b'{"type":"ping"}'))
        await peer.head()
        assert await peer.closed_with() == (4401, "Authentication Failed")


async def test_a_subprotocol_is_confirmed_to_the_refused_too():
    """Or the browser fails the connection with 1006 and never shows why."""
    async with serving() as running, connect(running.url, subprotocols=["bearer", "garbage"]) as client:
        assert client.subprotocol == "bearer"
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "Authentication Failed")


async def test_a_broker_that_fails_is_4500():
    """Not the client's fault; it may come back."""

    class Failing(MemoryBroker):
        async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
            raise RuntimeError("out of order")

    async with serving(broker=Failing()) as running:
        peer = await running.peer()
        await peer.send(request())
        await peer.head()
        assert await peer.frame() == (CLOSE, b"\x11\x94Internal Server Error")


# Origins.


@pytest.mark.parametrize(
    ("allowed", "origin", "let_in"),
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
        (("https://app.example",), "https://app.example.evil.example", False),
        (("https://app.example",), None, True),
        (("*",), "https://anything.example", True),
        (("*",), "null", True),
    ],
)
async def test_pages_of_other_sites_are_refused_before_the_upgrade(allowed, origin, let_in):
    """403 with a sentence for the developer, even with a good token; programs send no Origin."""
    async with serving(allowed_origins=allowed) as running:
        peer = await running.peer()
        await peer.send(request(Origin=origin))
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 101 " if let_in else b"HTTP/1.1 403 ")
        assert bool(running.gateway.keepalive.connections) is let_in


# The limit.


async def test_one_connection_too_many_is_4429_until_one_goes():
    """MAX_CONNECTIONS_PER_USER of one user; another user is not concerned."""
    async with serving(max_connections_per_user=2) as running:
        first, _second = await running.shaken(), await running.shaken()
        third = await running.peer()
        await third.send(request())
        await third.head()
        assert await third.frame() == (CLOSE, b"\x11\x4dToo Many Connections")
        await running.shaken(path=f"{PATH}?token={make_token(SECRET, user_id=2)}")
        await first.send(closing(1000))
        assert (await first.closed_with())[0] == 1000
        assert await first.hung_up()
        await running.shaken()
        fifth = await running.peer()
        await fifth.send(request())
        await fifth.head()
        assert (await fifth.closed_with())[0] == 4429


async def test_the_refused_hold_no_slot():
    """However many were refused, a slot that is freed can be taken."""
    async with serving(max_connections_per_user=1) as running:
        holder = await running.shaken()
        for _ in range(3):
            peer = await running.peer()
            await peer.send(request())
            await peer.head()
            assert (await peer.closed_with())[0] == 4429
            peer.close()
        holder.reset()
        await running.emptied()
        await running.shaken()


# Clients that die, dawdle or are greeted at a bad moment.


@WAYS
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_dies_in_mid_handshake_leaves_nothing(how, way):
    """No lease, no connection, no subscription, and no request in aiohttp."""
    broker = Slow()
    async with serving(broker=broker) as running:
        peer = await running.asking(way)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            visitor = running.visitor()
            getattr(peer, how)()
            while visitor.transport is not None:
                await asyncio.sleep(0)
        broker.gate.set()
        await running.settled()
        assert not running.gateway.keepalive.connections
        assert not running.gateway.delivery.personal
        assert not running.gateway.rooms.subscriptions._joining
        assert await broker.admit(1, 99, 1), "its slot is free"


@WAYS
async def test_what_comes_while_the_handshake_waits_is_not_lost(way):
    """Bytes that arrive after the head, but before the answer."""
    broker = Slow()
    async with serving(broker=broker) as running:
        peer = await running.asking(way)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await peer.send(masked(TEXT, b'{"type":"ping"}'))
            visitor = running.visitor()
            while not (visitor._early if isinstance(visitor, PendingConnection) else visitor._message_tail):
                await asyncio.sleep(0)
        broker.gate.set()
        await peer.head()
        assert [(await event(peer))["type"], (await event(peer))["type"]] == ["connected", "pong"]


@WAYS
async def test_so_much_comes_while_the_handshake_waits_that_reading_stops(way):
    """The connection reads on where that stopped, and nothing is lost."""
    broker = Slow()
    ping, count = masked(PING, bytes(100)), 6000
    async with serving(broker=broker, ws_max_buffer=1 << 30, ws_message_rate=0) as running:
        peer = await running.asking(way)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            sending = asyncio.create_task(peer.send(ping * count + closing(1000)))
            visitor = running.visitor()
            while visitor.transport.is_reading():
                await asyncio.sleep(0)
        broker.gate.set()
        await peer.head()
        assert (await event(peer))["type"] == "connected"
        for _ in range(count):
            assert await peer.pong() == bytes(100)
        assert await peer.closed_with() == (1000, "")
        await sending


@pytest.mark.parametrize("sent", [b"", b"G", request()[:-1], b"POST /x HTTP/1.1\r\nHost: a\r\n"])
async def test_a_half_sent_head_is_dropped(sent):
    """After HANDSHAKE_TIMEOUT, without an answer; whoever got through stays."""
    async with serving(handshake_timeout=0.1) as running:
        served = await running.shaken()
        peer = await running.peer()
        await peer.send(sent)
        await peer.cut_off()
        await running.settled()
        await served.send(masked(TEXT, b'{"type":"ping"}'))
        assert (await event(served))["type"] == "pong"


async def test_one_byte_at_a_time_does_not_put_the_deadline_off():
    """A head that never ends, slowly (slowloris)."""
    async with serving(handshake_timeout=0.1) as running:
        peer = await running.peer()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                await peer.send(b"GET / HTTP/1.1\r\n")
                while True:
                    await peer.send(b"X")
                    await asyncio.sleep(0.005)
        await running.settled()


# What this relies on in aiohttp.


@pytest.mark.slow
async def test_fails_loudly_if_a_new_aiohttp_changes_what_the_handshake_relies_on():
    """After the 101 aiohttp has forgotten the connection, and nothing of the request is left in memory.

    The names that the handshake and the server use of ``RequestHandler`` exist and mean what they did; the transport
    is the connection's, and alive; after a garbage collection no handler and no request is left, and no task.
    """
    async with serving(handshake_timeout=2.0) as running:
        idle = await running.peer()
        await idle.send(b"G")
        async with asyncio.timeout(PATIENCE):
            while not running.at_aiohttp:
                await asyncio.sleep(0)
        (handler,) = running.at_aiohttp
        for name in ("_message_tail", "_request_count", "transport", "connection_lost", "force_close"):
            assert hasattr(handler, name), f"aiohttp's RequestHandler has no {name} any more"
        assert handler._message_tail == b""
        assert handler._request_count == 0
        del handler
        idle.close()
        await running.settled()

        before = len(asyncio.all_tasks())
        peers = [await running.asking("in two") for _ in range(2)] + [await running.asking("whole")]
        for peer in peers:
            assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
            assert (await event(peer))["type"] == "connected"
        await running.settled()
        assert len(running.gateway.keepalive.connections) == 3
        assert len(asyncio.all_tasks()) == before, "a connection has no task"
        async with asyncio.timeout(PATIENCE):
            while any(
                isinstance(one, web.BaseRequest | RequestHandler | PendingConnection) for one in gc.get_objects()
            ):
                await asyncio.sleep(0.01)  # the clock of the half-sent heads lets go of them at its next tick
                gc.collect()
        for peer in peers:
            await peer.send(masked(TEXT, b'{"type":"ping"}'))
            assert (await event(peer))["type"] == "pong"


async def test_a_connection_that_ended_is_not_kept_alive():
    """Neither the client nor its transport, after any of the ways to end."""
    async with serving() as running:
        peers = [await running.shaken() for _ in range(3)]
        kinds = {type(one) for one in running.gateway.keepalive.connections}
        await peers[0].send(closing(1000))
        peers[1].reset()
        await peers[2].send(masked(BINARY, b"x"))
        await peers[2].closed_with()
        peers[2].close()
        await running.emptied()
        await asyncio.sleep(0)
        gc.collect()
        assert [one for one in gc.get_objects() if type(one) in kinds] == []


# TLS and Unix sockets.


async def test_tls(certificate, server_tls):
    """Greeting, commands, both closing handshakes and a refusal, all through TLS."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(address=Address(port=0, tls=server_tls)) as running:
        url = running.url.replace("ws://", "wss://")
        async with connect(f"{url}?token={TOKEN}", ssl=trust) as client:
            assert json.loads(await client.recv())["type"] == "connected"
            await client.send('{"type":"ping"}')
            assert json.loads(await client.recv())["type"] == "pong"
            await running.settled()
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
        await running.emptied()


async def test_a_client_that_never_begins_tls_is_dropped(server_tls):
    """HANDSHAKE_TIMEOUT is for TLS too."""
    async with serving(address=Address(port=0, tls=server_tls), handshake_timeout=0.2) as running:
        peer = await running.peer()
        await peer.cut_off()


async def test_a_unix_socket(tmp_path):
    """Listening on a path; the address of its clients is "unix"."""
    path = tmp_path / "roomcast.sock"
    async with serving(address=Address(unix_socket=path)) as running:
        async with unix_connect(str(path), uri=f"ws://localhost{PATH}?token={TOKEN}") as client:
            assert json.loads(await client.recv())["type"] == "connected"
            assert [one.remote for one in running.gateway.keepalive.connections] == ["unix"]
        await running.emptied()


async def test_a_port_that_is_taken_leaves_nothing_running():
    """start raises the system's error, and has stopped what it had started."""
    async with serving() as running:
        before = asyncio.all_tasks()
        second = Server(Gateway(Settings(jwt_secret=SECRET), load(), MemoryBroker()), Address(port=running.server.port))
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


# Shutdown.


async def test_stopping_closes_everyone_with_1012():
    """Those who answer and those who do not hear; afterwards nobody is let in, and stop ends."""
    async with serving(max_connections_per_user=20) as running:
        peers = [await running.shaken() for _ in range(10)]
        port = running.server.port
        stopping = asyncio.create_task(running.server.stop())
        for peer in peers:
            assert await peer.frame() == (CLOSE, b"\x03\xf4Service Restart")
            await peer.send(closing(1012))
            assert await peer.hung_up()
        async with asyncio.timeout(PATIENCE):
            await stopping
        with pytest.raises(ConnectionRefusedError):
            await Peer.connect(("127.0.0.1", port))


async def test_the_closes_are_spread_over_drain_seconds():
    """One after the other: while the first is told, the last can still work."""
    async with serving(max_connections_per_user=20, drain_seconds=0.5) as running:
        peers = [await running.shaken() for _ in range(5)]
        stopping = asyncio.create_task(running.server.stop())
        assert await peers[0].frame() == (CLOSE, b"\x03\xf4Service Restart")
        assert not stopping.done()
        await peers[-1].send(masked(TEXT, b'{"type":"ping"}'))
        assert (await event(peers[-1]))["type"] == "pong"
        for peer in peers[1:]:
            assert await peer.frame() == (CLOSE, b"\x03\xf4Service Restart")
        for peer in peers:
            await peer.send(closing(1012))
        async with asyncio.timeout(PATIENCE):
            await stopping


@WAYS
async def test_a_client_in_mid_handshake_is_told_to_come_back(way):
    """It is not greeted by a server that is going, and holds no slot."""
    broker = Slow()
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.asking(way)
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


async def test_stopping_drops_who_was_not_yet_greeted():
    """Idle connections and half-sent heads do not hold it up."""
    async with serving() as running:
        idle, half = await running.peer(), await running.peer()
        await half.send(request()[:20])
        async with asyncio.timeout(PATIENCE):
            while running.greeting < 2 or not running.at_aiohttp:
                await asyncio.sleep(0)
            await running.server.stop()
        await idle.cut_off()
        await half.cut_off()


async def test_a_library_client_sees_a_refused_origin_as_403():
    """What a developer gets to see who tries from another page."""
    async with serving() as running:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{running.url}?token={TOKEN}", origin="https://evil.example")
        assert refused.value.response.status_code == 403
        assert b"ALLOWED_ORIGINS" in refused.value.response.body


@pytest.mark.parametrize(
    ("lines", "trusted", "remote"),
    [
        ([], True, "unix"),
        (["10.0.0.1"], False, "unix"),
        (["10.0.0.1"], True, "10.0.0.1"),
        (["made up, 10.0.0.1"], True, "10.0.0.1"),
        (["made up", "10.0.0.1"], True, "10.0.0.1"),
        (["made up, too", "made up, 10.0.0.1"], True, "10.0.0.1"),
        (["made up", ""], True, "unix"),
    ],
)
def test_the_proxy_is_believed_and_not_the_client(lines: list[str], trusted: bool, remote: str):
    """The last entry is the proxy's own, be it in the client's line or in one behind it; the others may be made up."""
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    request = make_mocked_request("GET", "/", headers)
    assert remote_address(request.clone(remote=""), trust_proxy=trusted) == remote
