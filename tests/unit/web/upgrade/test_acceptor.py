"""The acceptor on real servers: it answers plain handshakes, and passes all other requests on to aiohttp unchanged."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
from typing import Any

import pytest
from handshakes import IN_PARTS, TOKEN, GatedBroker, request, serving
from serving import PATH, token_for
from websockets.asyncio.client import connect, unix_connect
from wire import PATIENCE, Peer, closing, masked

from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable
from roomcast.protocol.frames import CLOSE, TEXT
from roomcast.web.port import Address
from roomcast.web.upgrade import pending_handshakes

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")

PING = masked(TEXT, b'{"type":"ping"}')


async def read_answer(peer: Peer) -> list[Any]:
    """Return the lines of the response without its date, and after a 101 the first frame without its timestamp."""
    head = await peer.head()
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date:")]
    if not head.startswith(b"HTTP/1.1 101 "):
        return lines
    opcode, payload = await peer.frame()
    if opcode == CLOSE:
        return [*lines, payload]
    frame = json.loads(payload)
    return [*lines, frame["type"], frame["data"]]


# Requests that the acceptor answers

ANSWERED = {
    "a token in the query": {},
    "a token that is percent-encoded": {"path": f"{PATH}?token={TOKEN.replace('.', '%2E')}"},
    "two tokens, the second one wrong": {"path": f"{PATH}?token={TOKEN}&token=x"},
    "two tokens, the first one wrong": {"path": f"{PATH}?token=x&token={TOKEN}"},
    "bytes that are not UTF-8": {"path": f"{PATH}?%ff=%fe&token={TOKEN}"},
    "a plus and a semicolon": {"path": f"{PATH}?a=b+c;d&token={TOKEN}"},
    "a token in the Authorization header": {"path": PATH, "Authorization": f"Bearer {TOKEN}"},
    "a token in the subprotocols": {"path": PATH, "Sec_WebSocket_Protocol": f"bearer, {TOKEN}"},
    "no token": {"path": PATH},
    "a wrong token": {"path": f"{PATH}?token={TOKEN[:-9]}"},
    "an unknown ticket": {"path": f"{PATH}?ticket=nope"},
    "the page's own origin": {"Origin": "http://localhost"},
    "two options in Connection": {"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"},
    "a header that is not ASCII": {"X-Name": "é"},
    "an empty body": {"Content_Length": "0"},
}


@pytest.mark.parametrize("change", ANSWERED.values(), ids=ANSWERED)
async def test_the_acceptor_answers_as_aiohttp_does(change):
    """A request in two parts is passed on to aiohttp, and the responses are equal byte for byte."""
    async with serving() as running:
        whole = await read_answer(await running.start_handshake(**change))
        assert running.aiohttp_requests == 0
        assert await read_answer(await running.start_handshake(2, **change)) == whole
        assert running.aiohttp_requests == 1


@pytest.mark.slow
def test_the_acceptor_works_with_aiohttps_parser_in_python():
    """Where aiohttp is not compiled, the acceptor uses aiohttp's parser in Python."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "answers_as_aiohttp"],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_connected_frame_answers_since():
    """The history is read before the 101, and ``recovered`` is in the frame after it."""
    async with serving() as running:
        *_, kind, data = await read_answer(await running.start_handshake(path=f"{PATH}?token={TOKEN}&since=abc-1"))
        assert (kind, data["recovered"]) == ("connected", False)
        assert running.aiohttp_requests == 0


async def test_a_ticket_is_valid_once_in_the_acceptor_and_in_aiohttp():
    """The second use is refused, even if one use is in the acceptor and the other in aiohttp."""
    async with serving() as running:
        await running.broker.put("ticket/abc", json.dumps(TOKEN).encode(), 30.0)
        assert "connected" in await read_answer(await running.start_handshake(path=f"{PATH}?ticket=abc"))
        assert b"\x11\x31Authentication Failed" in await read_answer(
            await running.start_handshake(2, path=f"{PATH}?ticket=abc")
        )


@IN_PARTS
@pytest.mark.parametrize(
    ("trusted", "remote"),
    [("1", "10.0.0.1"), ("false", "127.0.0.1"), ("192.0.2.0/24", "127.0.0.1"), ("127.0.0.0/8", "10.0.0.1")],
)
async def test_the_remote_address_comes_from_a_trusted_proxy(parts, trusted, remote):
    """Without TRUST_PROXY the address is that of the peer."""
    async with serving(trust_proxy=trusted) as running:
        await read_answer(await running.start_handshake(parts, X_Forwarded_For="made up, 10.0.0.1"))
        assert [client.remote for client in running.gateway.keepalive.connections] == [remote]


async def test_the_acceptor_answers_over_tls(certificate, server_tls):
    """A handshake, early bytes and a refusal over TLS are handled without aiohttp."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(address=Address(port=0, tls=server_tls)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port, ssl=trust)
        writer.write(request() + PING)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            await reader.readuntil(b'"connected"')
            await reader.readuntil(b'"pong"')
            writer.write(closing(1000))
            await reader.read()
        writer.close()
        async with connect(f"{running.url.replace('ws:', 'wss:')}?token=x", ssl=trust) as client:
            await client.wait_closed()
            assert client.close_code == 4401
        await running.wait_until_ended()
        assert running.aiohttp_requests == 0


async def test_requests_over_tls_are_passed_on(certificate, server_tls):
    """A handshake may follow another request on the same connection."""
    trust = ssl.create_default_context(cafile=certificate)
    async with serving(address=Address(port=0, tls=server_tls)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port, ssl=trust)
        writer.write(request("/health/live", Connection=None, Upgrade=None))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(request())
            await reader.readuntil(b"HTTP/1.1 101 ")
            await reader.readuntil(b'"connected"')
        writer.close()
        await running.wait_until_ended()


async def test_the_acceptor_answers_on_a_unix_socket(tmp_path):
    """Clients of a Unix socket have no address."""
    path = tmp_path / "roomcast.sock"
    async with serving(address=Address(unix_socket=path)) as running:
        async with unix_connect(str(path), uri=f"ws://localhost{PATH}?token={TOKEN}") as client:
            assert json.loads(await client.recv())["type"] == "connected"
            assert [one.remote for one in running.gateway.keepalive.connections] == ["unix"]
        await running.wait_until_ended()
        assert running.aiohttp_requests == 0


# Requests that the acceptor passes on

PLAIN = request()
PASSED_ON = {
    "another path": request("/nope"),
    "a longer path": request(f"{PATH}x?token={TOKEN}"),
    "the path percent-encoded": request(f"/api/v1/ws/%63onnect?token={TOKEN}"),
    "a whole URL": request(f"http://localhost{PATH}?token={TOKEN}"),
    "another method": request(method="POST"),
    "HEAD": request(method="HEAD"),
    "no upgrade": request(Connection=None, Upgrade=None),
    "an upgrade to something else": request(Upgrade="h2c"),
    "an old version": request(Sec_WebSocket_Version="8"),
    "a bad key": request(Sec_WebSocket_Key="x"),
    "two keys": PLAIN.replace(b"Upgrade: w", b"Sec-WebSocket-Key: x\r\nUpgrade: w"),
    "a page of another site": request(Origin="https://evil.example"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 without a host": request(Host=None).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.1 without a host": request(Host=None),
    "two hosts": PLAIN.replace(b"Host: ", b"Host: a\r\nHost: "),
    "an expectation": request(Expect="100-continue"),
    "an unknown expectation": request(Expect="x"),
    "an encoded body": request(Content_Encoding="gzip"),
    "a body": request(Content_Length="5") + b"hello" + PING,
    "a body in chunks": request(Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n" + PING,
    "two lengths of a body": request(Transfer_Encoding="chunked", Content_Length="5") + b"0\r\n\r\n",
    "an empty line before it": b"\r\n" + PLAIN,
    "two requests": request("/nope", Connection=None, Upgrade=None) + PLAIN,
    "a header too long": request(X="x" * 8191),
    "a head too large": request(**{f"X{n}": "x" * 8000 for n in range(5)}),
    "a Host that is no host": request(Host="a/b"),
    "too many headers": request(**{f"X{n}": "x" for n in range(130)}),
    "a header with a NUL": request(X="a\0b"),
    "a header folded": request(X="a\r\n b"),
    "a line that ends without CR": PLAIN.replace(b"localhost\r\n", b"localhost\n"),
    "a head that ends without CR": PLAIN[:-2] + b"\n" + b"x\r\n\r\n",
    "a key of an old draft": request(Sec_WebSocket_Key1="x"),
}


@pytest.mark.parametrize("data", PASSED_ON.values(), ids=PASSED_ON)
async def test_other_requests_are_passed_on_unchanged(data):
    """The response equals that of a server without an acceptor."""
    async with serving() as running:
        first = await running.peer()
        await first.send(data)
        answer = await read_answer(first)
        assert running.aiohttp_requests >= 1
        factory = running.server.ports[0].acceptor._new_handler
        aiohttp_only = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        async with aiohttp_only:
            second = await Peer.connect(aiohttp_only.sockets[0].getsockname())
            await second.send(data)
            try:
                assert await read_answer(second) == answer
            finally:
                second.close()  # from Python 3.12 on the listener waits for its connections


async def test_a_refused_origin_is_logged_once(caplog):
    """The acceptor and aiohttp's handler both check the origin, and only one of them logs the refusal."""
    async with serving() as running:
        assert (await read_answer(await running.start_handshake(Origin="https://evil.example")))[0].startswith(
            b"HTTP/1.1 403"
        )
        assert [record.message for record in caplog.records if "another site" in record.message] == [
            "refused a page of another site: origin 'https://evil.example'"
        ]


async def test_an_invalid_request_is_logged_once(caplog):
    """The log has one line, without a traceback and without anything from the request."""
    caplog.set_level("INFO")
    async with serving() as running:
        peer = await running.peer()
        await peer.send(PASSED_ON["HTTP/1.1 without a host"])
        assert b" 400 " in (await read_answer(peer))[0]
        (record,) = [record for record in caplog.records if "refused" in record.message]
        assert (record.levelname, record.exc_info) == ("INFO", None)
        assert "Host" in record.message
        assert TOKEN not in caplog.text


async def test_a_connection_that_is_passed_on_keeps_its_start_time():
    """HANDSHAKE_TIMEOUT counts from the start of the connection, not from its first byte."""
    async with serving() as running:
        peer = await running.peer()
        live_acceptor = running.server.ports[0].acceptor
        async with asyncio.timeout(PATIENCE):
            while not live_acceptor._silent:
                await asyncio.sleep(0)
            (since,) = live_acceptor._silent.values()
            await peer.send(b"G")
            while not live_acceptor._incomplete:
                await asyncio.sleep(0)
        assert list(live_acceptor._incomplete.values()) == [since]
        assert not live_acceptor._silent


async def test_silent_connections_are_dropped():
    """A connection that sends nothing is closed after HANDSHAKE_TIMEOUT. Clients stay connected."""
    async with serving(handshake_timeout=0.2) as running:
        silent = [await running.peer() for _ in range(3)]
        served = await running.connected()
        for peer in silent:
            await peer.wait_until_closed()
        await running.wait_until_released()
        await served.send(PING)
        assert (await served.event())["type"] == "pong"


async def test_a_silent_connection_that_is_lost_is_forgotten():
    """A connection that ends without a request leaves nothing. Load balancers check the health like this."""
    async with serving() as running:
        peer = await running.peer()
        async with asyncio.timeout(PATIENCE):
            while not running.pending:
                await asyncio.sleep(0)
        peer.close()
        await running.wait_until_released()


# Shutdown


async def test_a_handshake_that_hangs_does_not_delay_the_shutdown(monkeypatch):
    """If the broker does not answer within the timeout, the client's connection is closed."""
    monkeypatch.setattr(pending_handshakes, "_CLOSE_TIMEOUT", 0.05)
    broker = GatedBroker()
    async with serving(broker=broker) as running:
        peer = await running.start_handshake()
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await running.server.stop()
        await peer.wait_until_closed()
        assert not running.server.ports[0].acceptor._handshakes
        assert not running.gateway.keepalive.connections


async def test_a_release_that_hangs_does_not_delay_the_shutdown(monkeypatch):
    """A cancelled handshake releases its slot. The shutdown waits for that only until the timeout."""
    monkeypatch.setattr(pending_handshakes, "_CLOSE_TIMEOUT", 0.05)

    class StuckBroker(MemoryBroker):
        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()
            self.release_begun = asyncio.Event()
            self.gate = asyncio.Event()

        async def subscribe(self, rooms: Any) -> None:
            self.asked.set()
            await self.gate.wait()

        async def release(self, user_id: int | str, connection: int) -> None:
            self.release_begun.set()
            await self.gate.wait()

    broker = StuckBroker()
    async with serving(broker=broker) as running:
        peer = await running.start_handshake()
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await running.server.stop()
            await peer.wait_until_closed()
        assert broker.release_begun.is_set()
        broker.gate.set()


async def test_a_connection_after_the_shutdown_is_closed():
    """A connection that the kernel accepted before the listener was closed is closed at once."""
    async with serving() as running:
        await running.server.ports[0].acceptor.close()
        peer = await running.peer()
        with contextlib.suppress(ConnectionError):
            await peer.send(request())
        await peer.wait_until_closed()
        await running.wait_until_released()


class FailingRelease(GatedBroker):
    """A broker that admits clients during the shutdown, and fails to release them."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def release(self, user_id: int | str, connection: int) -> None:
        raise self.error


@IN_PARTS
async def test_a_failing_release_does_not_prevent_the_close_frame(parts):
    """The client receives 1012, even if its slot cannot be released."""
    broker = FailingRelease(Unavailable("gone"))
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.start_handshake(parts)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            stopping = asyncio.create_task(running.server.stop())
            await asyncio.sleep(0)
            broker.gate.set()
            assert await read_answer(peer) == [*(await head_of_101()), b"\x03\xf4Service Restart"]
            await peer.send(closing(1012))
            await stopping


async def head_of_101() -> list[bytes]:
    """Return the lines of a 101, as ``read_answer`` does."""
    async with serving() as running:
        return (await read_answer(await running.start_handshake()))[:-2]


async def test_an_unexpected_exception_is_logged_and_closes(caplog):
    """An unexpected exception in a handshake closes the connection, so that the client does not wait."""
    broker = FailingRelease(RuntimeError("out of order"))
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.start_handshake()
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            stopping = asyncio.create_task(running.server.stop())
            await asyncio.sleep(0)
            broker.gate.set()
            assert await peer.closes_cleanly()
            await stopping
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["a handshake failed"]


async def test_events_of_the_personal_room_follow_the_connected_frame():
    """An event that is published in the loop iteration of the admission reaches the client."""

    class PublishingBroker(MemoryBroker):
        async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
            on_event = running.gateway.listener.on_event
            asyncio.get_running_loop().call_soon(on_event, f"user:{user_id}", "a-1", b'{"type":"hi"}')
            return await super().admit(user_id, connection, limit)

    async with serving(broker=PublishingBroker()) as running:
        peer = await running.start_handshake(path=f"{PATH}?token={token_for(7)}")
        await peer.head()
        assert [(await peer.event())["type"], (await peer.event())["type"]] == ["connected", "hi"]
