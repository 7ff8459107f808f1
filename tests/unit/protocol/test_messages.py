"""Tests of ``protocol.messages``: every input is parsed or refused with a sentence, and builders return valid JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import msgspec
import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from roomcast.errors import ERROR_CODES, Refused
from roomcast.protocol import messages, request_id
from roomcast.protocol.messages import Request

SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
MICROSECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

#: Text that JSON can represent: no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
rooms = st.from_regex(messages.ROOM_PATTERN.replace("$", r"\Z"))
requests = st.builds(
    Request,
    type=texts,
    room=st.none() | rooms,
    data=st.none() | st.dictionaries(texts, values, max_size=4),
    id=st.none() | numbers | texts,
    key=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=messages.MAX_KEY),
)


def refusal(payload: bytes | str) -> Refused:
    """Return the error for ``payload``, which must be refused with a known code and a complete sentence."""
    with pytest.raises(Refused) as caught:
        messages.parse(payload.encode() if isinstance(payload, str) else payload)
    refused = caught.value
    assert refused.code in ERROR_CODES
    assert refused.message.endswith((".", "}")) and refused.message.isprintable() and len(refused.message) < 500
    return refused


def parse_or_refuse(payload: bytes) -> Request | None:
    """Parse ``payload``; return None if it is refused. Any other exception fails the test."""
    try:
        return messages.parse(payload)
    except Refused as refused:
        assert refused.code in ERROR_CODES
        assert json.loads(messages.error(refused, id=request_id.find(payload)))["type"] == "error"
        return None


# Parsing.


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_arbitrary_bytes_are_parsed_or_refused(payload):
    """No other exception is raised, and the refusal can be sent to the client."""
    parse_or_refuse(payload)


@given(values, st.integers(0, 200))
@settings(max_examples=200)
@example({"type": "ping", "id": 2**64}, 200)
@example({"type": "ping", "id": -(2**63) - 1}, 200)
@example({"type": "ping", "id": 10**400}, 500)
def test_arbitrary_json_is_parsed_or_refused(value, cut):
    """The JSON may be incomplete. The id of a parsed request can be sent back."""
    request = parse_or_refuse(json.dumps(value).encode()[:cut])
    if request is not None:
        assert json.loads(messages.pong(request.id))["type"] == "pong"


wrong = st.sampled_from([0, 1.5, True, None, "", "x", [], {}, "channel:*", "a" * 200, 2**70, -1])


@given(st.dictionaries(st.sampled_from(["type", "room", "data", "id", "key", "other"]), wrong))
@settings(max_examples=200)
def test_arbitrary_fields_are_parsed_or_refused(envelope):
    """Fields may be missing, unknown or of the wrong type; the rules are below."""
    request = parse_or_refuse(json.dumps(envelope).encode())
    if request is not None:
        assert isinstance(request.type, str) and "other" not in envelope
        assert request.room is None
        assert request.data in (None, {})
        assert request.id is None or type(request.id) in (int, str)
        assert request.key in (None, "x", "channel:*")


@given(requests)
@settings(max_examples=200)
def test_a_valid_request_is_parsed_unchanged(request):
    """All values are exact. Fields that are None may be present or absent."""
    whole = msgspec.structs.asdict(request)
    for envelope in (whole, {name: value for name, value in whole.items() if value is not None}):
        payload = orjson.dumps(envelope)
        assert messages.parse(payload) == request
        assert messages.parse(bytearray(payload)) == request


@given(st.text(max_size=20).map(lambda text: text.replace("\x00", "")))
@settings(max_examples=200)
@example("channel:1\n")
@example("channel:*")
@example("channel:{1}")
@example("Channel:1")
@example("channel:")
@example("channel:" + "a" * 129)
@example("channel:1:2")
@example("channel:ä")
@example("1channel:1")
def test_the_form_of_a_rooms_name_is_checked(name):
    """The form is a lower-case word, a colon, and 1 to 128 letters, digits, dots, dashes and underscores."""
    assume(not name.startswith("user:"))
    head, colon, tail = name.partition(":")
    word = bool(head) and head[0] in "abcdefghijklmnopqrstuvwxyz" and re.sub("[a-z0-9_]", "", head) == ""
    expected = bool(colon) and word and 0 < len(tail) <= 128 and re.sub("[A-Za-z0-9._-]", "", tail) == ""
    try:
        assert messages.normalize_room(name) == name
    except Refused as refused:
        assert refused.code == "bad_room"
        assert not expected
    else:
        assert expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("user:12345", "user:12345"), ("user:%34%32", "user:42"), ("user:a|b", "user:a%7Cb"), ("user:é", "user:%C3%A9")],
)
def test_the_name_of_a_personal_room_is_normalized(name, expected):
    """A request that names one has the normal name."""
    assert messages.normalize_room(name) == expected
    assert messages.parse(json.dumps({"type": "x", "room": name}).encode()).room == expected
    with pytest.raises(Refused, match="Percent-encode the id"):
        messages.normalize_room("user:100%")


@pytest.mark.parametrize(
    ("payload", "code", "words"),
    [
        ("", "bad_json", "not valid JSON"),
        ("{", "bad_json", "not valid JSON"),
        ("hello", "bad_json", "not valid JSON"),
        ('{"type":"ping"}}', "bad_json", "trailing characters"),
        ('{"type":"ping"} {"type":"ping"}', "bad_json", "trailing characters"),
        ("[]", "bad_json", "not a JSON object"),
        ('"ping"', "bad_json", "not a JSON object"),
        ("7", "bad_json", "not a JSON object"),
        ("null", "bad_json", "not a JSON object"),
        ('{"type":"ping","data":{"a":NaN}}', "bad_json", "not valid JSON"),
        ('{"type":"ping","data":{"a":Infinity}}', "bad_json", "not valid JSON"),
        ('{"type":"ping","data":{"a":1e999}}', "bad_json", "too large, in data."),
        ('{"type":"ping","data":{"a":%s}}' % ("9" * 5000), "bad_json", "too large"),
        ('{"type":"ping","id":%s}' % ("9" * 5000), "bad_json", "too large"),
        ('{"type":"ping","data":{"a":' + "[" * 30_000 + "]" * 30_000 + "}}", "bad_json", "nested too deeply"),
        ('{"type":"ping","data":{"a":%s' % ("[" * 200_000), "bad_json", "nested too deeply"),
        ('{"a":' * 200_000, "bad_message", "'a' is unknown"),
        (b'{"type":"\xff"}', "bad_json", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "bad_json", "not valid JSON"),
        ('{"type":"\\ud800"}', "bad_json", "not valid JSON"),
        ("{}", "bad_message", "type is missing"),
        ('{"room":"channel:1"}', "bad_message", "type is missing"),
        ('{"type":7}', "bad_message", "type must be a string, not a number."),
        ('{"type":null}', "bad_message", "type must be a string, not null."),
        ('{"type":"ping","room":7}', "bad_message", "room must be a string, not a number."),
        ('{"type":"ping","data":[]}', "bad_message", "data must be an object, not an array."),
        ('{"type":"ping","data":"text"}', "bad_message", "data must be an object, not a string."),
        ('{"type":"ping","id":1.5}', "bad_message", "id must be a string or a whole number, not a number with a"),
        ('{"type":"ping","id":true}', "bad_message", "id must be a string or a whole number, not true or false."),
        ('{"type":"ping","id":{}}', "bad_message", "id must be a string or a whole number, not an object."),
        ('{"type":"ping","id":18446744073709551616}', "bad_message", "more than 64 bits"),
        ('{"type":"ping","id":"%s"}' % ("x" * 129), "bad_message", "id must have at most 128 characters"),
        ('{"type":"ping","key":7}', "bad_message", "key must be a string, not a number."),
        ('{"type":"ping","key":""}', "bad_message", "key must have 1 to 128 characters"),
        ('{"type":"ping","key":"%s"}' % ("x" * 129), "bad_message", "key must have 1 to 128 characters"),
        ('{"type":"ping","colour":"red"}', "bad_message", "'colour' is unknown; a message has type, room, data"),
        ('{"out of range":1}', "bad_message", "'out of range' is unknown"),
        ('{"expected `str`, got `int`":1}', "bad_message", "is unknown"),
        ('{"":1}', "bad_message", "'' is unknown"),
        ('{"%s":1}' % ("x" * 60_000), "bad_message", "xxx' is unknown"),
        ('{"type":"ping","room":""}', "bad_room", "entity_type:entity_id"),
        ('{"type":"ping","room":"channel"}', "bad_room", "entity_type:entity_id"),
        ('{"type":"ping","room":"channel:*"}', "bad_room", "entity_type:entity_id"),
        ('{"type":"ping","room":"channel:{1}"}', "bad_room", "entity_type:entity_id"),
        ('{"type":"ping","room":"channel:1\\r\\nX"}', "bad_room", "entity_type:entity_id"),
        ('{"type":"ping","room":"channel:%s"}' % ("1" * 1_000_000), "bad_room", "entity_type:entity_id"),
    ],
)
def test_a_refusal_names_the_problem(payload, code, words):
    """Each problem has its code and a short, plain sentence, even if the message is long or unusual."""
    refused = refusal(payload)
    assert refused.code == code
    assert words in refused.message


def test_ids_keys_and_rooms_of_the_maximum_length_are_accepted():
    """128 characters are accepted for id, key and entity id, and 64 bits for a number."""
    long = "x" * 128
    request = messages.parse(json.dumps({"type": "ping", "id": long, "key": long, "room": f"channel:{long}"}).encode())
    assert (request.id, request.key, request.room) == (long, long, f"channel:{long}")
    for number in (2**64 - 1, -(2**63), 0):
        assert messages.parse(b'{"type":"ping","id":%d}' % number).id == number


@pytest.mark.parametrize(
    "text",
    [r"\ud83d", r"\ud83d.", r"\ude00", r"\uD83D\ud83d", r"\ude00\ud83d", r"\ud83d\n", r"\\\ud83d", r"\ud83d and more"],
)
@pytest.mark.parametrize(
    "frame", ['{"type":"ping","data":{"x":"%s"}}', '{"type":"%s"}', '{"type":"ping","id":"%s"}', '{"%s":1}']
)
def test_half_a_surrogate_pair_is_named(frame, text):
    """The sentence names the cause, wherever the half is, and how to repair the text."""
    refused = refusal(frame % text)
    assert refused.code == "bad_json"
    assert "half a surrogate pair" in refused.message and "toWellFormed" in refused.message


@pytest.mark.parametrize(
    "text", [r'{"type":"ping"', r'{"type":"\\ud83d', r'{"type":"\ud83d\ude00', '{"type":"ping","id":1']
)
def test_a_cut_message_is_not_taken_for_a_surrogate(text):
    """The sentence names the end of the text. A backslash may be escaped itself, and a pair may be complete."""
    assert "truncated" in refusal(text).message


def test_fields_beyond_the_known_are_refused():
    """The error names the unknown field. No data and an empty object are equivalent."""
    messages.refuse_other_fields(Request("ping"))
    messages.refuse_other_fields(Request("ping", data={}))
    messages.refuse_other_fields(Request("join_room", data={"since": "x"}), "since")
    with pytest.raises(Refused, match=r"data\.colour: ping takes no data\.") as caught:
        messages.refuse_other_fields(Request("ping", data={"colour": 1}))
    assert caught.value.fields == {"colour": ["Unknown field."]}
    with pytest.raises(Refused, match=r"data\.till: join_room takes only since\."):
        messages.refuse_other_fields(Request("join_room", data={"since": "x", "till": "y"}), "since")
    with pytest.raises(Refused, match=r"data\.d: join_room takes only a, b and c\."):
        messages.refuse_other_fields(Request("join_room", data={"c": "x", "d": "y"}), "a", "b", "c")


def test_a_long_unknown_field_is_cut():
    """The error for a field with a long name is short."""
    with pytest.raises(Refused) as caught:
        messages.refuse_other_fields(Request("ping", data={"n" * 60_000: 1}))
    assert len(messages.error(caught.value)) < 1000


# Building.


def test_an_event_has_the_documented_fields():
    """They are type, room, data, sender and timestamp. Room and sender are omitted if there are none."""
    built = json.loads(messages.event("task.created", "project:1", {"task_id": 7}, "alice"))
    assert SECONDS.fullmatch(built.pop("timestamp"))
    assert built == {"type": "task.created", "room": "project:1", "data": {"task_id": 7}, "sender": "alice"}
    assert set(json.loads(messages.event("notification.new", None, {}, None))) == {"type", "data", "timestamp"}


def test_connected_has_microseconds_and_the_limits():
    """Its timestamp is the current UTC time with microseconds. All other messages have seconds.

    Its data has the limits and the version of the server, and the state of the personal room if the client resumes.
    """
    before = datetime.now(UTC)
    about = messages.about_server("1.2", {"max_rooms": 5, "heartbeat": 0.5})
    built = json.loads(messages.connected(12345, "alice", about))
    assert MICROSECONDS.fullmatch(built["timestamp"])
    assert before <= datetime.fromisoformat(built["timestamp"]) <= datetime.now(UTC)
    shown = {"limits": {"max_rooms": 5, "heartbeat": 0.5}, "server": {"version": "1.2"}}
    welcome = {"message": "Connected successfully", "user_id": 12345, "username": "alice", **shown}
    assert built["data"] == welcome
    resumed = {"recovered": True, "last_id": "a-1"}
    assert json.loads(messages.connected(12345, "alice", about, resumed))["data"] == welcome | resumed
    for other in (messages.pong(), messages.reply("sent", {}), messages.error(Refused("internal", "x"))):
        assert SECONDS.fullmatch(json.loads(other)["timestamp"])


def test_a_reply_repeats_room_and_id():
    """They are omitted if the request had none. 0 and the empty string are valid ids."""
    assert set(json.loads(messages.reply("sent", {}))) == {"type", "data", "timestamp"}
    whole = json.loads(messages.reply("sent", {"a": 1}, room="channel:1", id="7"))
    assert (whole["room"], whole["id"], whole["data"]) == ("channel:1", "7", {"a": 1})
    assert json.loads(messages.pong(0))["id"] == 0
    assert json.loads(messages.pong(""))["id"] == ""


def test_an_error_has_a_sentence_and_a_code():
    """The ``error`` message has a sentence, a code, and fields if there are any."""
    built = json.loads(messages.error(Refused("bad_room", "No such room.")))
    assert set(built) == {"type", "data", "timestamp"}
    assert built["data"] == {"error": "No such room.", "code": "bad_room"}
    refused = Refused("invalid_data", "content: too long", {"content": ["too long"]})
    assert json.loads(messages.error(refused))["data"]["fields"] == {"content": ["too long"]}


@pytest.mark.parametrize("data", [{"a": 2**64}, {"a": "\ud800"}, {"a": json.loads("[" * 500 + "]" * 500)}])
def test_input_that_json_cannot_represent_is_refused(data):
    """Input can have such values. The refusal is a sentence, and no incomplete event is built."""
    with pytest.raises(Refused, match=r"data cannot be sent as JSON: .*\.$"):
        messages.event("message", "channel:1", data, None)


@pytest.mark.parametrize("data", [{"a": object()}, {1: 2}, {"a": {1, 2}}])
def test_objects_that_json_cannot_represent_are_a_fault(data):
    """Only a plugin can have made such values, so that is no refusal of input."""
    with pytest.raises(TypeError, match=r"the data of event message cannot be sent as JSON: "):
        messages.event("message", "channel:1", data, None)
