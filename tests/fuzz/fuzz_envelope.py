"""Fuzzes what handles the JSON of messages: parsing a request, finding the id of a broken one, building an event.

See CONTRIBUTING.md for how to run it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import orjson
from fuzzing import run

from roomcast import fastpath
from roomcast.errors import Refused
from roomcast.fastpath import envelope, text_frames
from roomcast.protocol import messages, request_id
from roomcast.registry import load
from roomcast.schemas.validator import Validator

COMMANDS = load().commands


def check_request(text: bytes) -> None:
    """Parse a message as the server does. It is accepted, or refused with a sentence and with the id of the request."""
    payload = bytearray(text)
    id = request_id.find(payload)
    try:
        request = messages.parse(payload, {})
    except Refused as refused:
        json.dumps(refused.message).encode()
        return
    assert bytes(payload) == text
    assert request.id == id
    command = COMMANDS.get(request.type)
    if command is not None:
        check_data(command.validator, request.data)


def check_data(validator: Validator, data: object) -> None:
    """Validate the data of a command. What is accepted is accepted again, without a change."""
    try:
        loaded = validator.load(data if data is not None else {})
    except Refused as refused:
        orjson.dumps(refused.fields)
        assert len(refused.fields or {}) <= 20
        return
    assert validator.load(dict(loaded)) == loaded


def check_event(data: bytes) -> None:
    """Build an event with both twins. They agree, and the result is JSON with the same texts."""
    parts = data.decode(errors="surrogateescape" if data[:1] == b"s" else "replace").split("\n", 3)
    type, room, sender, content = (parts + [""] * 4)[:4]
    try:
        document = orjson.dumps({"content": content})
        expected = envelope.build_envelope(type, room or None, document, sender or None, room or None)
    except TypeError:
        expected = None
    try:
        built = fastpath.build_envelope(
            type, room or None, orjson.dumps({"content": content}), sender or None, room or None
        )
    except TypeError:
        built = None
    if built is None or expected is None:
        assert built is expected is None
        return
    event, reference = orjson.loads(built), orjson.loads(expected)
    assert event.pop("timestamp") and reference.pop("timestamp")
    assert event == reference
    frame = fastpath.encode_event_frame(built, "1-2")
    assert frame == text_frames.encode_event_frame(built, "1-2")


def check(data: bytes) -> None:
    """Handle ``data`` as a message or as the parts of an event, by its first byte."""
    if data[:1] in (b"e", b"s"):
        check_event(data)
    else:
        check_request(data)


SEEDS = [
    b'{"id":1,"type":"join_room","room":"channel:1","data":{"since":null}}',
    b'{"id":"a","type":"send_message","room":"channel:1","key":"k","data":{"content":"x","metadata":{"a":[1]}}}',
    b'{"id":1,"type":"edit_message","room":"channel:1","data":{"message_id":"1-2","content":"\\ud83d"}}',
    b'{"id":9007199254740993,"type":"ping","data":{"a":{"id":3}}',
    b'{"type":"send_message","id":NaN,"data":"\\u00e9\\n"}',
    b"event\nroom:1\nann\ntext",
    b's\n"\\\n\x01\n\xff',
]

if __name__ == "__main__":
    run(check, SEEDS)
