"""The entrance on real servers: it answers plain handshakes itself, and aiohttp gets everything else as it came."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
import traceback
from typing import Any

import pytest
from handshakes import PATH, SECRET, TOKEN, WAYS, Running, Slow, event, request, serving
from websockets.asyncio.client import connect, unix_connect
from wire import PATIENCE, Peer, closing, masked

from roomcast.auth.identity import make_token
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable
from roomcast.protocol.frames import CLOSE, TEXT
from roomcast.web.server import Address
from roomcast.web.upgrade import acceptor

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")

PING = masked(TEXT, b'{"type":"ping"}')


def asked(running: Running) -> int:
    """How many requests have come to aiohttp."""
    count: int = running.server._runner.server.requests_count
    return count


async def heard(peer: Peer) -> list[Any]:
    """What a client is answered: the head without its date, and what follows a 101, without what is new each time."""
    head = await peer.head()
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date:")]
    if not head.startswith(b"HTTP/1.1 101 "):
        return lines
    opcode, payload = await peer.frame()
    if opcode == CLOSE:
        return [*lines, payload]
    said = json.loads(payload)
    return [*lines, said["type"], said["data"]]


# What it takes.

TAKEN = {
    "a token in the query": {},
    "a token that is percent-encoded": {"path": f"{PATH}?token={TOKEN.replace('.', '%2E')}"},
    "two tokens, of which the first counts": {"path": f"{PATH}?token={TOKEN}&token=x"},
    "two tokens, of which the first is wrong": {"path": f"{PATH}?token=x&token={TOKEN}"},
    "bytes that are no UTF-8": {"path": f"{PATH}?%ff=%fe&token={TOKEN}"},
    "a plus and a semicolon": {"path": f"{PATH}?a=b+c;d&token={TOKEN}"},
    "a token in the Authorization header": {"path": PATH, "Authorization": f"Bearer {TOKEN}"},
    "a token in the subprotocols": {"path": PATH, "Sec_WebSocket_Protocol": f"bearer, {TOKEN}"},
    "no token": {"path": PATH},
    "a token that is wrong": {"path": f"{PATH}?token={TOKEN[:-9]}"},
    "a ticket that nobody gave out": {"path": f"{PATH}?ticket=nope"},
    "the page's own origin": {"Origin": "http://localhost"},
    "more than Upgrade in Connection": {"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"},
    "a header that is no ASCII": {"X-Name": "é"},
    "an empty body": {"Content_Length": "0"},
}


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
async def test_a_handshake_in_one_piece_is_answered_as_aiohttp_would_have_it(change):
    """aiohttp never hears of it; one in two pieces, of which it does, is answered to the letter the same."""
    async with serving() as running:
        whole = await heard(await running.asking("whole", **change))
        assert asked(running) == 0
        assert await heard(await running.asking("in two", **change)) == whole
        assert asked(running) == 1


@pytest.mark.slow
def test_it_is_taken_without_aiohttps_parser_in_c():
    """Where aiohttp was not compiled, its parser in Python reads the same."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "in_one_piece"],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_since_is_answered_in_the_handshakes():
    """What was missed is asked for before the 101, and told behind it."""
    async with serving() as running:
        *_, kind, data = await heard(await running.asking("whole", path=f"{PATH}?token={TOKEN}&since=abc-1"))
        assert (kind, data["recovered"]) == ("connected", False)
        assert asked(running) == 0


async def test_a_ticket_is_good_for_once_however_the_head_comes():
    """Between the entrance and aiohttp, too."""
    async with serving() as running:
        await running.broker.put("ticket/abc", json.dumps(TOKEN).encode(), 30.0)
        assert "connected" in await heard(await running.asking("whole", path=f"{PATH}?ticket=abc"))
        assert b"\x11\x31Authentication Failed" in await heard(
            await running.asking("in two", path=f"{PATH}?ticket=abc")
        )


@WAYS
@pytest.mark.parametrize(("trusted", "remote"), [(True, "10.0.0.1"), (False, "127.0.0.1")])
async def test_the_address_is_the_proxys_word_if_that_is_trusted(way, trusted, remote):
    """TRUST_PROXY; else the peer's own."""
    async with serving(trust_proxy=trusted) as running:
        await heard(await running.asking(way, X_Forwarded_For="made up, 10.0.0.1"))
        assert [client.remote for client in running.gateway.keepalive.connections] == [remote]


async def test_tls_is_taken_in_one_piece(certificate, server_tls):
    """A handshake, early bytes and a refusal through TLS, none of which aiohttp hears of."""
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
        await running.emptied()
        assert asked(running) == 0


async def test_tls_is_passed_on(certificate, server_tls):
    """A page through TLS, and a handshake after it on the same connection."""
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
        await running.emptied()


async def test_a_unix_socket_is_taken(tmp_path):
    """Its clients have no address."""
    path = tmp_path / "roomcast.sock"
    async with serving(address=Address(unix_socket=path)) as running:
        async with unix_connect(str(path), uri=f"ws://localhost{PATH}?token={TOKEN}") as client:
            assert json.loads(await client.recv())["type"] == "connected"
            assert [one.remote for one in running.gateway.keepalive.connections] == ["unix"]
        await running.emptied()
        assert asked(running) == 0


# What it passes on.

PLAIN = request()
PASSED = {
    "another path": request("/nope"),
    "a path that begins like it": request(f"{PATH}x?token={TOKEN}"),
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
    "an expectation that is none": request(Expect="x"),
    "a body": request(Content_Length="5") + b"hello" + PING,
    "a body in chunks": request(Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n" + PING,
    "two lengths of a body": request(Transfer_Encoding="chunked", Content_Length="5") + b"0\r\n\r\n",
    "an empty line before it": b"\r\n" + PLAIN,
    "two requests": request("/nope", Connection=None, Upgrade=None) + PLAIN,
    "a header too long": request(X="x" * 8191),
    "too many headers": request(**{f"X{n}": "x" for n in range(130)}),
    "a header with a NUL": request(X="a\0b"),
    "a header folded": request(X="a\r\n b"),
    "a line that ends without CR": PLAIN.replace(b"localhost\r\n", b"localhost\n"),
    "a head that ends without CR": PLAIN[:-2] + b"\n" + b"x\r\n\r\n",
    "an old draft's key": request(Sec_WebSocket_Key1="x"),
}


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
async def test_anything_else_is_passed_on_as_it_came(data):
    """aiohttp answers, and not otherwise than a server does at whose entrance nobody stands."""
    async with serving() as running:
        first = await running.peer()
        await first.send(data)
        answered = await heard(first)
        assert asked(running) >= 1
        behind = await asyncio.get_running_loop().create_server(running.server._runner.server, "127.0.0.1", 0)
        async with behind:
            second = await Peer.connect(behind.sockets[0].getsockname())
            await second.send(data)
            try:
                assert await heard(second) == answered
            finally:
                second.close()  # from Python 3.12 on the listener waits for its connections


async def test_the_origin_that_was_refused_is_logged_once(caplog):
    """Although it was looked at twice."""
    async with serving() as running:
        assert (await heard(await running.asking("whole", Origin="https://evil.example")))[0].startswith(
            b"HTTP/1.1 403"
        )
        assert [record.message for record in caplog.records if "another site" in record.message] == [
            "refused a page of another site: origin 'https://evil.example'"
        ]


async def test_a_fault_of_a_head_is_told_once(caplog):
    """aiohttp logs what it found; that the entrance found the same before is not told with it."""
    async with serving() as running:
        peer = await running.peer()
        await peer.send(PASSED["two hosts"])
        assert b" 400 " in (await heard(peer))[0]
        (told,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert "Host" in str(told)
        while told is not None:
            assert "acceptor" not in "".join(traceback.format_tb(told.__traceback__))
            told = told.__context__


async def test_whoever_is_passed_on_gets_no_more_time():
    """HANDSHAKE_TIMEOUT counts from the connection's beginning, not from its first byte."""
    async with serving() as running:
        peer = await running.peer()
        door = running.server._acceptor
        async with asyncio.timeout(PATIENCE):
            while not door._silent:
                await asyncio.sleep(0)
            (since,) = door._silent.values()
            await peer.send(b"G")
            while not door._incomplete:
                await asyncio.sleep(0)
        assert list(door._incomplete.values()) == [since]
        assert not door._silent


async def test_the_silent_are_dropped_oldest_first_and_no_others():
    """Whoever has connected, and says nothing, is closed in time; whoever speaks stays."""
    async with serving(handshake_timeout=0.2) as running:
        silent = [await running.peer() for _ in range(3)]
        served = await running.shaken()
        for peer in silent:
            await peer.cut_off()
        await running.settled()
        await served.send(PING)
        assert (await event(served))["type"] == "pong"


async def test_one_that_hangs_up_in_silence_is_forgotten():
    """As a load balancer's checks do."""
    async with serving() as running:
        peer = await running.peer()
        async with asyncio.timeout(PATIENCE):
            while not running.greeting:
                await asyncio.sleep(0)
        peer.close()
        await running.settled()


# The end.


async def test_a_handshake_without_end_does_not_hold_up_the_end(monkeypatch):
    """The broker never answers: it is waited for no longer than a moment, and the client is cut off."""
    monkeypatch.setattr(acceptor, "_CLOSE_TIMEOUT", 0.05)
    broker = Slow()
    async with serving(broker=broker) as running:
        peer = await running.asking("whole")
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await running.server.stop()
        await peer.cut_off()
        assert not running.server._acceptor._handshakes
        assert not running.gateway.keepalive.connections


async def test_a_broker_that_takes_nothing_back_does_not_hold_up_the_end(monkeypatch):
    """A handshake that is cut off gives back what it had, and nobody waits for that longer than a moment."""
    monkeypatch.setattr(acceptor, "_CLOSE_TIMEOUT", 0.05)

    class Stuck(MemoryBroker):
        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()
            self.given_back = asyncio.Event()
            self.gate = asyncio.Event()

        async def subscribe(self, rooms: Any) -> None:
            self.asked.set()
            await self.gate.wait()

        async def release(self, user_id: int | str, connection: int) -> None:
            self.given_back.set()
            await self.gate.wait()

    broker = Stuck()
    async with serving(broker=broker) as running:
        peer = await running.asking("whole")
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            await running.server.stop()
            await peer.cut_off()
        assert broker.given_back.is_set()
        broker.gate.set()


async def test_nobody_comes_in_after_the_end():
    """Whoever was on the way in when the entrance closed is closed, too."""
    async with serving() as running:
        await running.server._acceptor.close()
        peer = await running.peer()
        with contextlib.suppress(ConnectionError):
            await peer.send(request())
        await peer.cut_off()
        await running.settled()


class Leaving(Slow):
    """A broker that lets in when the server is going, and then fails at giving back."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def release(self, user_id: int | str, connection: int) -> None:
        raise self.error


@WAYS
async def test_a_broker_that_fails_at_the_end_keeps_nobody_from_being_told(way):
    """Who is sent away is told so, though its slot is not given back."""
    broker = Leaving(Unavailable("gone"))
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.asking(way)
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            stopping = asyncio.create_task(running.server.stop())
            await asyncio.sleep(0)
            broker.gate.set()
            assert await heard(peer) == [*(await welcome_head()), b"\x03\xf4Service Restart"]
            await peer.send(closing(1012))
            await stopping


async def welcome_head() -> list[bytes]:
    """The head of a 101, as ``heard`` has it."""
    async with serving() as running:
        return (await heard(await running.asking("whole")))[:-2]


async def test_a_fault_of_ours_is_logged_and_closes(caplog):
    """What nobody has thought of leaves no client hanging."""
    broker = Leaving(RuntimeError("out of order"))
    async with serving(broker=broker, drain_seconds=0.3) as running:
        peer = await running.asking("whole")
        async with asyncio.timeout(PATIENCE):
            await broker.asked.wait()
            stopping = asyncio.create_task(running.server.stop())
            await asyncio.sleep(0)
            broker.gate.set()
            assert await peer.hung_up()
            await stopping
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["a handshake failed"]


async def test_the_last_room_of_a_user_is_theirs_at_once():
    """What is published in the turn in which a client was let in reaches it behind the greeting."""

    class Telling(MemoryBroker):
        async def admit(self, user_id: int | str, connection: int, limit: int) -> bool:
            on_event = running.gateway.listener.on_event
            asyncio.get_running_loop().call_soon(on_event, f"user:{user_id}", "a-1", b'{"type":"hi"}')
            return await super().admit(user_id, connection, limit)

    async with serving(broker=Telling()) as running:
        peer = await running.asking("whole", path=f"{PATH}?token={make_token(SECRET, user_id=7)}")
        await peer.head()
        assert [(await event(peer))["type"], (await event(peer))["type"]] == ["connected", "hi"]
