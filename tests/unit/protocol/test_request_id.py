"""Tests of ``protocol.request_id``: the id of a refused message is found, whatever is wrong with the message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomcast.errors import Refused
from roomcast.protocol import messages, request_id

#: The reasons for which a message is not valid JSON. ``%s`` is the place of the id.
BROKEN = {
    "half a surrogate pair": r'{%s,"data":{"content":"hello \ud83d"}}',
    "half a surrogate pair in a name": r'{%s,"data":{"\ude00":1}}',
    "half a surrogate pair as a top-level name": r'{%s,"\ud83d":1}',
    "nested 1,000 levels deep": '{%s,"data":{"a":' + "[" * 1000 + "]" * 1000 + "}}",
    "objects nested 1,500 levels deep": '{%s,"data":' + '{"a":' * 1500 + "1" + "}" * 1501,
    "arrays nested 50,000 levels deep": '{%s,"data":' + "[" * 50_000 + "]" * 50_000 + "}",
    "not a number": '{%s,"data":{"n":NaN}}',
    "infinity": '{%s,"n":-Infinity}',
    "text after the object": '{%s,"type":"ping"} and more',
    "a second object": '{%s}{"id":"other"}',
    "cut in a string": '{%s,"type":"pi',
    "cut in an object": '{%s,"data":{"a":[1,2',
    "cut after a comma": "{%s,",
    "cut after the id": "{%s ",
    "a line end in a string": '{%s,"data":{"content":"a\nb"}}',
    "an unknown escape": r'{%s,"data":{"content":"\x"}}',
    "a single quote": "{%s,'type':'ping'}",
    "undefined": '{%s,"room":undefined}',
    "spaces": '\n { %s\t, "n" : NaN }',
}
#: Those that have a complete object, so that the id may also come last.
COMPLETE = [name for name, text in BROKEN.items() if not name.startswith(("cut", "a s", "text"))]


@pytest.mark.parametrize("id", ["a", "", "é\n😀", 'quote " and } and ,', 7, 0, -(2**63), 2**64 - 1])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_the_id_of_broken_json_is_found(broken, id):
    """The id is found, as a text, escaped or not, and as a number."""
    for encoded in (json.dumps(id), json.dumps(id, ensure_ascii=False)):
        payload = broken.replace("%s", f'"id":{encoded}').encode()
        with pytest.raises(Refused):
            messages.parse(payload)
        assert request_id.find(payload) == id


@pytest.mark.parametrize("broken", [BROKEN[name] for name in COMPLETE], ids=COMPLETE)
def test_the_id_may_come_last(broken):
    """What precedes it is skipped. Ids within it are not taken for that of the message."""
    inner = '"data2":{"id":"inner","a":[{"id":"inner"},"\\"id\\":1,"]},"x":"\\"id\\":\\"text\\","'
    text = broken.replace("%s", inner)
    payload = (text[: text.rindex("}")] + ',"id":"outer"}').encode()
    assert request_id.find(payload) == "outer"
    without = text.encode()
    assert request_id.find(without) is None


@pytest.mark.parametrize(
    ("payload", "id"),
    [
        (b'{"id":7}', 7),
        (b'{"id":"a","type":5}', "a"),
        (rb'{"\u0069d":"a","n":NaN}', "a"),
        (b'{"id":true}', None),
        (b'{"id":1.5}', None),
        (b'{"id":[1]}', None),
        (b'{"id":1e400}', None),
        (b'{"id":NaN}', None),
        (b'{"id":{"id":1},"n":NaN}', None),
        (b'{"id":18446744073709551616}', None),
        (b'{"id":18446744073709551616,"n":NaN}', None),
        (b'{"id":"%b"}' % (b"x" * 129), None),
        (b'{"id":"%b","n":NaN}' % (b"x" * 129), None),
        (rb'{"id":"\ud83d"}', None),
        (rb'{"id":"\x"}', None),
        (b"[7]", None),
        (b'["id",7', None),
        (b'[{"id":7},NaN]', None),
        (b'"id":7', None),
        (b'{"data":{"id":7},"n":NaN}', None),
        (b'{"data":{"id":7', None),
        (b'{"type":"\\"id\\":7', None),
        (b'{"id":7', None),
        (b'{"id":"7', None),
        (b'{"id"', None),
        (b"{", None),
        (b"", None),
    ],
)
def test_only_a_complete_id_at_the_top_level_is_found(payload, id):
    """An id that is cut off, has another type or cannot be sent back is not found, and no other value is."""
    assert request_id.find(payload) == id
    assert request_id.find(bytearray(payload)) == id


names = st.sampled_from(["id", "a", '"', "\\", "é", "}", '"id":'])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", '"', "\\", '"id":1', "}", "]", ",", "😀"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(names, values, max_size=5), st.booleans())
@settings(max_examples=300)
def test_the_scanner_agrees_with_the_parser(document, is_ascii):
    """In valid JSON the scanner finds the id that orjson finds."""
    payload = json.dumps(document, ensure_ascii=is_ascii).encode()
    assert request_id._scan(payload) == request_id.find(payload)


@given(st.dictionaries(names, values, max_size=5), st.integers(0, 400))
@settings(max_examples=300)
def test_a_cut_text_has_the_id_of_the_whole_or_none(document, end):
    """Wherever the text is cut, no other id is found."""
    payload = json.dumps(document).encode()
    assert request_id.find(payload[:end]) in (None, request_id.find(payload))


def test_the_cost_is_bounded():
    """Beyond a number of members, of brackets, and of bytes, nothing is read."""
    late = b'"id":1,"n":NaN}'
    assert request_id.find(b"{" + b'"a":1,' * 2000 + late) == 1
    assert request_id.find(b"{" + b'"a":1,' * 3000 + late) is None
    assert request_id.find(b'{"a":[' + b"[]," * 1000 + b"1]," + late) == 1
    assert request_id.find(b'{"a":[' + b"[]," * 2000 + b"1]," + late) is None
    assert request_id.find(b'{"a":"' + b"x" * 120_000 + b'",' + late) == 1
    assert request_id.find(b'{"a":"' + b"x" * 140_000 + b'",' + late) is None


def test_a_bounded_search() -> None:
    """A text that is not valid JSON is searched as far as asked for, which takes little time; valid JSON completely."""
    broken = b'{"a":"%b","id":7,' % (b"x" * 2000)
    assert request_id.find(broken) == 7
    assert request_id.find(broken, 1024) is None
    assert request_id.find(b'{"id":7,"a":"%b",' % (b"x" * 2000), 1024) == 7
    assert request_id.find(broken[:-1] + b"}", 1024) == 7
