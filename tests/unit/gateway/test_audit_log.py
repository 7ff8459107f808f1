"""Tests of ``gateway.audit_log``: what is logged about users, and that no token is."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import pytest
import websockets
from handshakes import request
from sample_commands import SampleCommands
from serving import PATH, Serve, User, call, connect, refused, token_for, url
from waiting import wait_until
from wire import Peer, masked

from roomcast.failure_log import report_uncounted
from roomcast.gateway.audit_log import DENIAL_LINES
from roomcast.logs import RedactingFilter
from roomcast.protocol.frames import TEXT
from roomcast.web import failure_logs
from roomcast.web.server import Server

ROOM = "channel:1"


def end_records(caplog: Any) -> list[Any]:
    """Return the log records of connections that ended."""
    return [record for record in caplog.records if record.getMessage().startswith("connection ended")]


async def test_each_connection_is_logged_at_its_end(serve: Serve, caplog) -> None:
    """The line and its fields have the user, the address, the duration and the reason."""
    caplog.set_level(logging.INFO)
    server = await serve(forbidden_join="close", trust_proxy="true")
    async with connect(server, headers={"X-Forwarded-For": "203.0.113.9"}) as alice:
        await alice.socket.close(1000, "bye")
    async with connect(server, 2, "bob", rooms=[]) as bob:
        await bob.send("join_room", ROOM)
        await bob.closed()
    async with connect(server, 3, "carol") as carol:
        carol.socket.transport.abort()
    async with connect(server, 4, "dan") as dan:
        await dan.socket.close(1000)
    await wait_until(lambda: len(end_records(caplog)) == 4)
    fields = ("user_id", "username", "remote", "code", "reason")
    assert [tuple(getattr(record, name) for name in fields) for record in end_records(caplog)] == [
        (1, "alice", "203.0.113.9", 1000, "bye"),
        (2, "bob", "127.0.0.1", 4403, "Forbidden"),
        (3, "carol", "127.0.0.1", 1006, "Connection Lost"),
        (4, "dan", "127.0.0.1", 1000, ""),
    ]
    assert end_records(caplog)[-1].getMessage().endswith(" s: 1000")
    line = end_records(caplog)[0].getMessage()
    assert re.fullmatch(r"connection ended: user 1 \(alice\) from 203\.0\.113\.9 after \d+\.\d s: 1000 bye", line)


async def test_security_events_are_logged(serve: Serve, caplog) -> None:
    """Refused tokens, joins, refreshes and connections, and kicks, are logged with user and address."""
    caplog.set_level(logging.INFO)
    server = await serve(forbidden_join="keep", max_connections_per_user=1)
    await refused(server, f"{PATH}?token=nonsense")
    async with connect(server, rooms=[ROOM]) as alice:
        await refused(server, f"{PATH}?token={token_for()}")
        await alice.send("join_room", "channel:2")
        await alice.send("refresh_token", data={"token": token_for(2)})
        await alice.join(ROOM)
        await server.gateway.signals.kick(ROOM, 1)
        await alice.recv_type("left_room")
    who = "user 1 (alice) from 127.0.0.1"
    for line in (
        "refused a connection from 127.0.0.1: The token is not a JWT.",
        "refused a connection of user 1 from 127.0.0.1: too many connections",
        f"join refused: {who}: You have no access to channel:2.",
        f"new token refused: {who}: it is of user 2",
        f"removed from a room: {who}: {ROOM}",
    ):
        assert line in caplog.messages


@pytest.mark.parametrize("what", ["join refused", "new token refused"])
async def test_a_user_that_repeats_what_is_denied_leaves_few_lines(serve: Serve, what: str, caplog) -> None:
    """Each user has some lines a minute, so others remain visible. The last line has the number of the rest."""
    caplog.set_level(logging.INFO)
    server = await serve(forbidden_join="keep", ws_message_rate=0)
    async with connect(server, rooms=[]) as alice, connect(server, 2, "bob", rooms=[]) as bob:
        for user, count in ((alice, DENIAL_LINES + 3), (bob, 1)):
            for id in range(count):
                if what == "join refused":
                    await user.send("join_room", ROOM, id=id)
                else:
                    await user.send("refresh_token", data={"token": "x"}, id=id)
                while (await user.recv())["type"] != "error":
                    pass
    report_uncounted(is_last=True)
    lines = [message for message in caplog.messages if message.startswith(f"{what}: user 1 (alice)")]
    assert len(lines) == DENIAL_LINES + 1
    assert lines[-1].endswith("(failures since the last such line: 3)")
    assert len([message for message in caplog.messages if message.startswith(f"{what}: user 2 (bob)")]) == 1


WAYS = [
    ("?token={token}", {}),
    ("?token={token}&since=x", {}),
    ("?ticket={token}", {}),
    ("", {"additional_headers": {"Authorization": "Bearer {token}"}}),
    ("", {"subprotocols": ["bearer", "{token}"]}),
]


async def use_token(server: Server, token: str, query: str, options: Any) -> None:
    """Connect with ``token`` in one of the ``WAYS``, and use it in valid and invalid messages."""
    filled = json.loads(json.dumps(options).replace("{token}", token))
    where = url(server, PATH + query.replace("{token}", token), "ws")
    async with websockets.connect(where, proxy=None, **filled) as socket:
        user = User(socket)
        try:
            await user.recv()
            await user.send("refresh_token", data={"token": token})
            await user.send("refresh_token", token=token)
            await user.send("boom", data={"n": token})
            await user.send("boom", token)
            for _ in range(4):
                await user.recv()
        except websockets.ConnectionClosed:
            pass


async def send_malformed(server: Server, token: str) -> None:
    """Send ``token`` in malformed requests and frames, whose errors could contain it."""
    for sent in (
        f"GET {PATH}?token={token} HTTP/9.9\r\n\r\n".encode(),
        f"GET {PATH}?token={token}\x00 HTTP/1.1\r\n\r\n".encode(),
        f"GET {PATH}?token={token} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nbroken\r\n\r\n".encode(),
        request(PATH, Authorization=f"Bearer {token}") + masked(TEXT, b"\xff" + token.encode()),
    ):
        peer = await Peer.connect(("127.0.0.1", server.port))
        await peer.send(sent)
        await peer.wait_until_closed()
        peer.close()


async def test_no_token_is_logged(serve: Serve, caplog, sample: SampleCommands, monkeypatch) -> None:
    """No log contains a token or ticket, valid or not, however it was sent.

    roomcast never logs one. A library may log the head of a request; it has stars instead of the token.
    """
    monkeypatch.setattr(failure_logs, "DENIAL_LINES", 1000)  # a line for each refusal
    caplog.set_level(logging.DEBUG)
    written = logging.StreamHandler(io.StringIO())
    written.addFilter(lambda record: not record.name.startswith("websockets"))  # the log of the client library
    written.addFilter(RedactingFilter())
    logging.getLogger().addHandler(written)
    try:
        server = await serve(plugins=[sample.plugin])
        tokens = [token_for(), token_for(expires_in=-5), token_for()[:-8] + "AAAAAAAA"]
        ticket = (await call(server, "POST", "/api/v1/tickets", key=tokens[0]))[1]["ticket"]
        for token in (*tokens, ticket):
            for query, options in WAYS:
                await use_token(server, token, query, options)
            await call(server, "POST", "/api/v1/tickets", key=token)
            await send_malformed(server, token)
            logging.getLogger("aiohttp.server").error("bad request: GET %s?token=%s", PATH, token)
    finally:
        logging.getLogger().removeHandler(written)
    own = [record for record in caplog.records if record.name.startswith("roomcast")]
    assert len(own) > 20
    shown = "\n".join(f"{logging.Formatter().format(record)} {vars(record)}" for record in own)
    for secret in (*tokens, ticket):
        assert secret.rpartition(".")[2] not in shown
        assert secret not in written.stream.getvalue()
    assert f"bad request: GET {PATH}?token=***" in written.stream.getvalue()
