"""Invalid input on a real server: messages get an error, and violations of RFC 6455 close the connection."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest
from handshakes import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Serve, connect, running
from wire import Peer, masked

from roomcast.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from roomcast.web.server import Server

ROOM = "channel:1"
MIB = 1024 * 1024


PING_JSON = b'{"type":"ping","id":"alive"}'


async def is_open(peer: Peer) -> bool:
    """Return True if the connection answers a ping, and sends nothing before the answer."""
    await peer.send(masked(TEXT, PING_JSON))
    frame = await peer.event()
    return (frame["type"], frame.get("id")) == ("pong", "alive")


# Messages.


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "bad_json"),
        ("{", "bad_json"),
        ('{"type":"ping"', "bad_json"),
        ("{'type':'ping'}", "bad_json"),
        ("ping", "bad_json"),
        ("[]", "bad_json"),
        ('["ping"]', "bad_json"),
        ("null", "bad_json"),
        ("42", "bad_json"),
        ('"ping"', "bad_json"),
        ('{"type":"ping","data":{"n":NaN}}', "bad_json"),
        ('{"type":"ping","data":{"n":-Infinity}}', "bad_json"),
        ('{"type":"send_message","data":{"content":%s}}' % ("9" * 5000), "bad_json"),
        ('{"type":"send_message","data":{"content":"x","metadata":{"n":%s}}}' % ("9" * 5000), "bad_json"),
        ("[" * 200_000, "bad_json"),
        ("[" * 100_000 + "]" * 100_000, "bad_json"),
        ('{"type":"ping","data":{"a":' + "[" * 200_000 + "]" * 200_000 + "}}", "bad_json"),
        ('{"type":"ping","data":' + '{"a":' * 200_000 + "1" + "}" * 200_001, "bad_json"),
        ("{}", "bad_message"),
        ('{"type":7}', "bad_message"),
        ('{"type":["ping"]}', "bad_message"),
        ('{"type":null}', "bad_message"),
        ('{"typ":"ping"}', "bad_message"),
        ('{"type":"ping","sender":"admin"}', "bad_message"),
        ('{"type":"join_room","room":7}', "bad_message"),
        ('{"type":"join_room","room":["channel:1"]}', "bad_message"),
        ('{"type":"send_message","room":"channel:1","data":"Hello"}', "bad_message"),
        ('{"type":"send_message","room":"channel:1","data":["Hello"]}', "bad_message"),
        ('{"type":""}', "unknown_type"),
        ('{"type":"PING"}', "unknown_type"),
        ('{"type":"message","room":"channel:1","data":{"content":"x"}}', "unknown_type"),
        ('{"type":"user_joined","room":"channel:1","data":{}}', "unknown_type"),
        ('{"type":"__class__"}', "unknown_type"),
        ('{"type":"%s"}' % ("x" * 500_000), "unknown_type"),
        ('{"type":"ping","data":{"n":1}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1"}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":7}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":null}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":""}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":"x","colour":"red"}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":"x","metadata":[]}}', "invalid_data"),
        ('{"type":"send_message","room":"channel:1","data":{"content":"%s"}}' % ("x" * 10_001), "invalid_data"),
        (
            '{"type":"send_message","room":"channel:1","data":{"content":"x","metadata":{"n":18446744073709551616}}}',
            "invalid_data",
        ),
        ('{"type":"send_message","data":{"content":"x"}}', "bad_room"),
        ('{"type":"join_room"}', "bad_room"),
        ('{"type":"join_room","room":null}', "bad_room"),
        ('{"type":"join_room","room":""}', "bad_room"),
        ('{"type":"join_room","room":"channel"}', "bad_room"),
        ('{"type":"join_room","room":"channel:"}', "bad_room"),
        ('{"type":"join_room","room":":1"}', "bad_room"),
        ('{"type":"join_room","room":"channel:*"}', "bad_room"),
        ('{"type":"join_room","room":"*"}', "bad_room"),
        ('{"type":"join_room","room":"channel:[1]"}', "bad_room"),
        ('{"type":"join_room","room":"channel:?"}', "bad_room"),
        ('{"type":"join_room","room":"channel:{1}"}', "bad_room"),
        ('{"type":"join_room","room":"channel:1\\r\\nSET x 1"}', "bad_room"),
        ('{"type":"join_room","room":"channel:1\\n"}', "bad_room"),
        ('{"type":"join_room","room":"channel:1\\u0000"}', "bad_room"),
        ('{"type":"join_room","room":" channel:1"}', "bad_room"),
        ('{"type":"join_room","room":"channel:../1"}', "bad_room"),
        ('{"type":"join_room","room":"channel:é"}', "bad_room"),
        ('{"type":"join_room","room":"channel:%s"}' % ("1" * MIB), "bad_room"),
        ('{"type":"join_room","room":"planet:1"}', "unknown_room_type"),
        ('{"type":"send_message","room":"channel:2","data":{"content":"x"}}', "not_joined"),
        ('{"type":"ping","id":1.5}', "bad_message"),
        ('{"type":"ping","id":18446744073709551616}', "bad_message"),
        ('{"type":"ping","id":"%s"}' % ("x" * 200), "bad_message"),
        ('{"type":"ping","key":7}', "bad_message"),
        ('{"type":"ping","key":""}', "bad_message"),
    ],
)
async def test_an_invalid_message_gets_an_error_and_the_connection_stays_open(serve: Serve, message: str, code: str):
    """The client gets one error with its code and a short sentence. The next message is answered."""
    server = await serve(ws_max_message_size=4 * MIB, ws_max_buffer=4 * MIB)
    async with connect(server) as user, connect(server, 2, "bob") as bob:
        await user.join(ROOM)
        await bob.join(ROOM)
        await user.recv_type("user_joined", sender="bob")
        await user.settled()
        await bob.settled()
        await user.socket.send(message)
        error = await user.recv()
        assert (error["type"], error["data"]["code"]) == ("error", code)
        assert 10 < len(error["data"]["error"]) < 700
        assert len(json.dumps(error)) < 2000
        assert await user.settled() == []
        assert await bob.settled() == []


@pytest.mark.parametrize(
    "message",
    [
        '{"type":7,"id":"a"}',
        '{"id":"a"}',
        '{"type":"ping","id":"a","room":"*"}',
        '{"x":1,"id":"a"}',
        r'{"type":"send_message","room":"channel:1","data":{"content":"hello \ud83d"},"id":"a"}',
        '{"type":"ping","data":{"id":"b","n":' + "[" * 1000 + "]" * 1000 + '},"id":"a"}',
        '{"type":"ping","data":{"n":NaN},"id":"a"}',
        '{"type":"ping","id":"a"} and more',
        '{"id":"a","type":"pi',
    ],
)
async def test_an_error_repeats_the_id_of_an_invalid_message(serve: Serve, message: str):
    """The client can match the error to its request, even if the message is not valid JSON."""
    async with connect(await serve()) as user:
        await user.socket.send(message)
        error = await user.recv()
        assert (error["type"], error["id"]) == ("error", "a")


async def test_an_error_of_the_rate_limit_repeats_the_id(serve: Serve):
    """A message that is refused before it is parsed has its id in the error, as far as it can be read."""
    async with connect(await serve(ws_message_rate=1)) as user:
        for number in range(6):
            await user.send("ping", id=number)
            assert (await user.recv())["id"] == number
        for message in ('{"type":"ping","id":"a"}', r'{"type":"\ud83d","id":"a"}'):
            await user.socket.send(message)
            error = await user.recv()
            assert (error["data"]["code"], error["id"]) == ("rate_limited", "a")


async def test_many_invalid_messages_get_as_many_errors(serve: Serve):
    """Invalid messages do not close a connection that keeps to the rate limit."""
    async with connect(await serve(ws_message_rate=0)) as user:
        for _ in range(1000):
            await user.socket.send("no")
        for _ in range(1000):
            assert (await user.recv())["data"]["code"] == "bad_json"
        assert await user.settled() == []


# Frames.


async def assert_closed_with(server: Server, data: bytes, code: int) -> None:
    """Send ``data`` on a new connection, which the server must close with ``code``."""
    async with raw(server) as peer:
        await peer.send(masked(TEXT, PING_JSON))
        assert (await peer.event())["type"] == "pong"
        await peer.send(data)
        assert (await peer.closed_with())[0] == code
        assert await peer.closes_cleanly()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes([0x81, len(PING_JSON)]) + PING_JSON, 1002),
        *((masked(TEXT, PING_JSON, rsv=rsv), 1002) for rsv in range(1, 8)),
        *((masked(opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)),
        (masked(CONTINUATION, b"x"), 1002),
        (masked(TEXT, b'{"type"', fin=False) + masked(TEXT, b':"ping"}'), 1002),
        (masked(PING, b"x", fin=False), 1002),
        (masked(PING, b"x" * 126), 1002),
        (masked(CLOSE, b"x"), 1002),
        (masked(CLOSE, struct.pack("!H", 1005)), 1002),
        (masked(CLOSE, struct.pack("!H", 999)), 1002),
        (masked(BINARY, PING_JSON), 1003),
        (masked(BINARY, b""), 1003),
        (masked(TEXT, b'{"type":"\xff"}'), 1007),
        (masked(TEXT, b"\xed\xa0\x80"), 1007),
        (masked(TEXT, b"\xc3"), 1007),
        (masked(TEXT, b"\xc3", fin=False) + masked(CONTINUATION, b"(", fin=True), 1007),
        (masked(TEXT, b"x" * 131_073), 1009),
        (bytes([0x81, 0xFF]) + struct.pack("!Q", 2**40), 1009),
        (masked(TEXT, b"x" * 80_000, fin=False) + masked(CONTINUATION, b"x" * 60_000), 1009),
    ],
)
async def test_invalid_frames_close_the_connection(serve: Serve, data: bytes, code: int):
    """Violations close with 1002, binary with 1003, invalid UTF-8 with 1007, long messages with 1009."""
    await assert_closed_with(await serve(), data, code)


async def test_a_message_of_the_maximum_size_is_accepted(serve: Serve):
    """WS_MAX_MESSAGE_SIZE bytes are accepted, and one byte more is refused."""
    server = await serve(ws_max_message_size=500)
    async with raw(server) as peer:
        await peer.send(masked(TEXT, PING_JSON.ljust(500)))
        assert (await peer.event())["type"] == "pong"
    await assert_closed_with(server, masked(TEXT, PING_JSON.ljust(501)), 1009)


async def test_a_character_may_be_split_between_fragments(serve: Serve):
    """UTF-8 is validated over the whole message, so a fragment may end at any byte."""
    message = json.dumps({"type": "ping", "id": "né€𝄞"}, ensure_ascii=False).encode()
    async with raw(await serve()) as peer:
        for cut in range(len(message) + 1):
            await peer.send(masked(TEXT, message[:cut], fin=False) + masked(CONTINUATION, message[cut:]))
            assert (await peer.event())["id"] == "né€𝄞"


async def test_pings_between_fragments_are_answered_at_once(serve: Serve):
    """The message with the ping in the middle is still complete."""
    async with raw(await serve()) as peer:
        for byte in PING_JSON[:-1]:
            opcode = TEXT if byte == PING_JSON[0] else CONTINUATION
            await peer.send(masked(opcode, bytes([byte]), fin=False) + masked(PING, b"?") + masked(PONG, b"!"))
            assert await peer.frame() == (PONG, b"?")
        await peer.send(masked(CONTINUATION, PING_JSON[-1:]))
        assert (await peer.event())["id"] == "alive"
        assert await is_open(peer)


async def test_frames_may_be_split_at_any_byte(serve: Serve):
    """A packet may end within a header. The message is handled once."""
    long = json.dumps({"type": "ping", "id": "x" * 120}).encode().ljust(200)
    async with raw(await serve(ws_message_rate=0)) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for frame in (masked(TEXT, PING_JSON), masked(TEXT, long), masked(TEXT, PING_JSON[:9], fin=False)):
            for cut in range(1, len(frame)):
                await peer.send(frame[:cut])
                await asyncio.sleep(0)
                await peer.send(frame[cut:])
                if frame[0] & 0x80:
                    assert (await peer.event())["type"] == "pong"
                else:
                    await peer.send(masked(CONTINUATION, PING_JSON[9:]))
                    assert (await peer.event())["id"] == "alive"


# Generated data.


@pytest.mark.slow
@given(st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40)), max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arbitrary_input_does_not_disturb_other_clients(messages: list[str | bytes]):
    """Text never closes a connection. Other bytes may close it, and no other client notices."""
    asyncio.run(_send_all(messages))


async def _send_all(messages: list[str | bytes]) -> None:
    async with running() as server, connect(server, 2, "bob") as bob:
        for message in messages:
            async with raw(server) as peer:
                if isinstance(message, str):
                    await peer.send(masked(TEXT, message.encode("utf-8", "replace")))
                    assert (await peer.event())["type"] == "error"
                    assert await is_open(peer)
                else:
                    await peer.send(message)
        assert await bob.settled() == []
