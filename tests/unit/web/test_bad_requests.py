"""Requests that are malformed or too expensive, on real servers: their responses, and what they leave in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl

import pytest
from aiohttp import web
from handshakes import IN_PARTS, TOKEN, Running, request, serving
from serving import PATH, bearer
from waiting import PATIENCE, wait_until
from wire import Peer

from roomcast import Plugin
from roomcast.aiohttp_internals import MAX_HEAD
from roomcast.failure_log import EXCEPTION_LINES
from roomcast.web import body_limit
from roomcast.web.failure_logs import DENIAL_LINES
from roomcast.web.port import Address

pytest_plugins = ("loops", "certificates")
LOOPS = ("uvloop", "asyncio")

API = "/api/v1/events"
FORM = "Content-Type: application/x-www-form-urlencoded"
CHUNKED = "Transfer-Encoding: chunked"


def head(path: str = API, *lines: str, method: str = "GET", version: str = "HTTP/1.1", host: str = "a") -> bytes:
    """Return the head of a request with a token in its URL."""
    url = f"{path}?token={TOKEN}"
    return "\r\n".join([f"{method} {url} {version}", f"Host: {host}", *lines, "", ""]).encode()


#: Requests that the parser refuses, with the status and a part of the sentence.
MALFORMED = {
    "no HTTP": (b"\x00\x01\xff\r\n\r\n", 400, "method"),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(100), 400, "not TLS"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/2 is not supported"),
    "an unknown method": (head(method="BREW"), 400, "method"),
    "an unknown version": (head(version="HTTP/9.9"), 400, "request line"),
    "a space in the URL": (head("/a b"), 400, "request line"),
    "a NUL in the URL": (head("/a\0b"), 400, "URL"),
    "bytes in the URL": (head().replace(b"token=", b"token=\xff"), 400, "URL"),
    "a port of a URL": (head("http://a:99999/"), 400, "URL"),
    "a long URL": (head("/" + "a" * 9000), 431, "8190 bytes"),
    "a long URL without an end": (head("/" + "a" * 20_000)[:18_000], 431, "8190 bytes"),
    "a long header": (head(API, "a: " + "b" * 9000), 431, "8190 bytes"),
    "many headers": (head(API, *["a: b"] * 200), 431, "128 headers"),
    "a head without an end": (head(API, *[f"a{n}: {'b' * 8000}" for n in range(9)])[:40_000], 431, "32768 bytes"),
    "empty lines without an end": (b"\r\n" * 20_000, 431, "32768 bytes"),
    "a NUL in a header": (head(API, "a: \0"), 400, "Invalid header value char"),
    "a header without a colon": (head(API, f"token {TOKEN}"), 400, "Invalid header token"),
    "a folded header": (head(API, "a: b", " c"), 400, "Unexpected whitespace"),
    "no host": (head().replace(b"Host: a\r\n", b""), 400, "no Host"),
    "two hosts": (head(API, "Host: b"), 400, "Duplicate 'Host' header found"),
    "lines without CR": (head().replace(b"\r\n", b"\n"), 400, "request line"),
    "a bad length": (head(API, "Content-Length: -1", method="POST"), 400, "Content-Length"),
    "two lengths": (head(API, CHUNKED, "Content-Length: 1", method="POST"), 400, "Transfer-Encoding"),
    "a bad encoding": (head(API, "Transfer-Encoding: x", method="POST"), 400, "Transfer-Encoding"),
    "a bad chunk": (head("/console/login", FORM, CHUNKED, method="POST") + b"zz\r\n", 400, "chunk size"),
    "a huge chunk": (head("/console/login", FORM, CHUNKED, method="POST") + b"f" * 30 + b"\r\n", 400, "Chunk size"),
    "an old handshake": (head(API, "Sec-WebSocket-Key1: x"), 400, "header"),
}
#: Requests that are refused for their head, in JSON under /api and in text elsewhere.
REFUSED = {
    "a large head": ([f"a{n}: {'b' * 8000}" for n in range(5)], {}, 431, "head_too_large"),
    "an old version": ([], {"version": "HTTP/0.9"}, 400, "bad_request"),
    "a new version": ([], {"version": "HTTP/2.0"}, 400, "bad_request"),
    "a host with a path": ([], {"host": "a/b"}, 400, "bad_request"),
    "a host that is not ASCII": ([], {"host": "é"}, 400, "bad_request"),
    "a host with a bad port": ([], {"host": "a:b"}, 400, "bad_request"),
    "an unknown expectation": (["Expect: x"], {}, 417, "bad_expectation"),
}


async def read_response(peer: Peer) -> tuple[int, bytes, bytes]:
    """Read a response; return the status, the head and the body."""
    response = await peer.head()
    length = re.search(rb"Content-Length: ([0-9]+)", response)
    assert length is not None
    return int(response.split()[1]), response, await peer.read(int(length[1]))


async def read_refusal(peer: Peer) -> tuple[int, bytes, bytes]:
    """Read a response and the end of the connection."""
    response = await read_response(peer)
    assert await peer.closes_cleanly()
    return response


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about refused requests. No line may have a traceback, a high level or a part of a token."""
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]
    assert not any(part in caplog.text for part in TOKEN.split("."))
    return [record.message for record in caplog.records if record.message.startswith("refused a request")]


@pytest.mark.parametrize(("data", "status", "words"), MALFORMED.values(), ids=MALFORMED)
async def test_malformed_requests_are_refused_in_json(
    data: bytes, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The response says what is wrong, and the log has one line."""
    caplog.set_level("INFO")
    async with serving(console=True) as run:
        peer = await run.peer()
        await peer.send(data)
        found, response, body = await read_refusal(peer)
        assert (found, json.loads(body)["code"]) == (status, {400: "bad_request", 431: "head_too_large"}[status])
        assert words in json.loads(body)["error"]
        assert b"Content-Type: application/json" in response
        assert len(refusals(caplog)) == 1


async def test_malformed_requests_of_one_kind_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Many malformed requests of all kinds leave a few lines, and the next one after a minute has their number."""
    caplog.set_level("INFO")
    async with serving(console=True) as run:
        for _ in range(3):
            for data, _, _ in MALFORMED.values():
                peer = await run.peer()
                await peer.send(data)
                await peer.head()
                peer.close()
        lines = refusals(caplog)
        assert len(lines) == len(set(lines)) < 15


@pytest.mark.parametrize("parts", [1, 50])
@pytest.mark.parametrize(("lines", "change", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_unreasonable_heads_are_refused(
    lines: list[str], change: dict[str, str], status: int, code: str, parts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is in JSON under /api, and in text elsewhere; the connection is closed."""
    caplog.set_level("INFO")
    async with serving() as run:
        for path in (API, "/docs", PATH):
            peer = await run.peer()
            data = head(path, *lines, **change)
            step = len(data) // parts + 1
            for start in range(0, len(data), step):
                await peer.send(data[start : start + step])
            found, response, body = await read_refusal(peer)
            assert found == status
            if path == "/docs":
                assert b"text/plain" in response
            else:
                assert json.loads(body)["code"] == code
        assert len(refusals(caplog)) == 1


@pytest.mark.parametrize("name", ["a", "xn--a", "xn--" + "a" * 8000, "[::1]", "%ff"])
async def test_the_host_of_a_whole_url_is_not_decoded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A request with a whole URL, as proxies get it, is handled by its path and its Host header."""
    async with serving() as run:
        for path, status in (("", 200), ("/nope?a=b", 404), ("/health/live", 200)):
            peer = await run.peer()
            await peer.send(f"GET http://{name}{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert (await read_response(peer))[0] == status
    assert not caplog.records


async def test_a_path_with_many_slashes_is_not_found(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp would look up each part of the path."""
    async with serving() as run:
        for path in ("/" * 100, API + "/a" * 100, "/static/" + "./" * 100):
            peer = await run.peer()
            await peer.send(head(path))
            status, _, body = await read_refusal(peer)
            assert status == 404
            assert b"slashes" in body


@pytest.mark.parametrize("parts", [1, 3, 1000])
async def test_a_large_head_is_accepted(parts: int) -> None:
    """A head of nearly 32 KB is handled, also several times, with bodies between, and in pieces."""
    data = head("/nope", *[f"a{n}: {'b' * 8000}" for n in range(4)], "Content-Length: 20000", method="POST")
    assert MAX_HEAD - 1000 < len(data) < MAX_HEAD
    data += bytes(20_000)
    async with serving() as run:
        peer = await run.peer()
        for _ in range(3):
            step = len(data) // parts + 1
            for start in range(0, len(data), step):
                await peer.send(data[start : start + step])
                if parts > 1:
                    await asyncio.sleep(0)
            status, response, _ = await read_response(peer)
            assert status == 404
            if b"Connection: close" in response:  # the body had not arrived
                break


async def test_what_follows_a_declined_handshake_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp parses these bytes later than others."""
    async with serving() as run:
        for rest, status in ((head("/" * 100), 404), (b"junk\r\n\r\n", 400), (b"\r\n" * 50_000, 431)):
            peer = await run.peer()
            await peer.send(request("/nope") + rest)
            assert (await read_response(peer))[0] == 404
            assert (await read_refusal(peer))[0] == status


async def test_the_refusal_of_an_endless_head_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends all of its head before it reads gets the response, not a reset."""
    monkeypatch.setattr(body_limit, "LINGER_SECONDS", PATIENCE)
    async with serving() as run:
        peer = await run.peer()
        for _ in range(300):
            await peer.send(b"a: " + b"b" * 8000 + b"\r\n" if _ else head()[:-2])
        status, _, body = await read_refusal(peer)
        assert (status, json.loads(body)["code"]) == (431, "head_too_large")


@IN_PARTS
@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Upgrade": None, "Connection": None}, 426, "upgrade_required"),
        ({"Sec_WebSocket_Version": "8"}, 426, "upgrade_required"),
        ({"Sec_WebSocket_Key": "x"}, 400, "bad_handshake"),
    ],
)
async def test_bad_handshakes_are_refused_in_json(change, status, code, parts, caplog) -> None:
    """The log has one line for many of them."""
    caplog.set_level("INFO")
    async with serving() as run:
        for _ in range(3):
            peer = await run.start_handshake(parts, **change)
            found, _, body = await read_response(peer)
            assert (found, json.loads(body)["code"]) == (status, code)
            peer.close()
        lines = [record.message for record in caplog.records]
        assert len(lines) == 1
        assert lines[0].startswith("refused a handshake from 127.0.0.1: ")


BODIES = {
    "ended early": (["Content-Length: 50", FORM], b"key=a"),
    "no such charset": (["Content-Length: 5", f"{FORM}; charset=nope"], b"key=a"),
    "an expensive charset": (["Content-Length: 5", f"{FORM}; charset*=utf-8''puny%63ode"], b"key=a"),
    "a long content type": (["Content-Length: 5", f"{FORM}; {'a=b;' * 1000}"], b"key=a"),
    "not in its charset": (["Content-Length: 5", FORM], b"key=\xff"),
    "a bad chunk later": ([CHUNKED, FORM], b"1\r\nk\r\nzz"),
}


@pytest.mark.parametrize(("lines", "body"), BODIES.values(), ids=BODIES)
async def test_bad_bodies_leave_no_traceback(lines: list[str], body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The console's login reads a body of anyone."""
    async with serving(console=True) as run:
        peer = await run.peer()
        await peer.send(head("/console/login", *lines, method="POST") + body)
        peer.socket.shutdown(socket.SHUT_WR)
        await peer.wait_until_closed()
        await run.wait_until_released()
        assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]


async def test_a_handler_that_fails_leaves_few_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    """Many requests that a route cannot handle are a few lines with a traceback, and 500."""
    broken = Plugin("broken", "For this test")

    @broken.route("GET", "/json", auth="public")
    async def read(service, request: web.Request) -> web.Response:
        await request.json()
        return web.Response()

    async with serving(plugins=[broken]) as run:
        for _ in range(EXCEPTION_LINES + 3):
            peer = await run.peer()
            await peer.send(head("/plugins/broken/json", "Content-Length: 1") + b"x")
            assert b" 500 " in await peer.head()
        lines = [record.message for record in caplog.records if record.exc_info]
        assert len(lines) == EXCEPTION_LINES
        assert "GET /plugins/broken/json failed" in lines[0]


async def test_other_bytes_on_a_tls_port_are_a_line_each(server_tls: ssl.SSLContext, caplog) -> None:
    """OpenSSL's name of the failure is logged once; one that a browser's user can cause has a hint."""
    caplog.set_level("INFO")
    async with serving(address=Address(port=0, tls=server_tls)) as run:
        for data in (head(), b"\0\1\2\3" * 50, b"\x16\x03\x01\x00\x05abcde") * 3:
            peer = await run.peer()
            await peer.send(data)
            await peer.wait_until_closed()
        await run.wait_until_released()
        lines = [record.message for record in caplog.records]
        assert len(lines) == len(set(lines)) <= 3
        assert "a TLS handshake failed: HTTP_REQUEST; this port serves TLS, use https:// and wss://" in lines[0]
        assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]
        assert TOKEN not in caplog.text


async def test_a_wrong_key_is_no_malformed_request(caplog) -> None:
    """Security events are logged one by one."""
    caplog.set_level("INFO")
    async with serving() as run:
        for _ in range(3):
            peer = await run.peer()
            await peer.send(head("/api/v1/rooms", f"Authorization: {bearer('wrong')['Authorization']}"))
            assert b" 401 " in await peer.head()
        await wait_until(lambda: len(caplog.records) == 3)
        assert isinstance(run, Running)


TICKET = "/api/v1/tickets"
#: Requests of clients without access, by the beginning of their lines in the log.
DENIED = {
    "refused a connection from": request(f"{PATH}?token=x"),
    "refused a page of another site": request(Origin="https://evil.example"),
    "refused a ticket to 127.0.0.1": head(TICKET, "Authorization: Bearer x", method="POST"),
    "refused a ticket to a page": head(TICKET, "Origin: https://evil.example", method="POST"),
}


@pytest.mark.parametrize("line", DENIED)
async def test_clients_without_access_leave_few_lines(line: str, caplog: pytest.LogCaptureFixture) -> None:
    """Such requests need no token: a line for each would flood the log. The last line has the number of the others."""
    caplog.set_level("INFO")
    async with serving() as run:
        for _ in range(DENIAL_LINES + 3):
            peer = await run.peer()
            await peer.send(DENIED[line])
            await peer.head()
        assert len([message for message in caplog.messages if message.startswith(line)]) == DENIAL_LINES
    lines = [message for message in caplog.messages if message.startswith(line)]
    assert len(lines) == DENIAL_LINES + 1
    assert lines[-1].endswith("(failures since the last such line: 3)")
