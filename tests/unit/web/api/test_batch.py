"""Events that came over HTTP: everything that is wrong with each is named, with its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from marshmallow import Schema, fields
from serving import Serve, call, connect

from roomcast import Plugin

EVENTS = "/api/v1/events"
GOOD: dict[str, Any] = {"type": "task.created", "room": "task:1", "data": {"task_id": 1, "title": "A"}}

nested = Plugin("nested")


class Where(Schema):
    region = fields.String(required=True)


@nested.event("nested.event")
class Nested(Schema):
    where = fields.Nested(Where, required=True)
    sizes = fields.List(fields.Integer())
    database = fields.String()


def without(name: str) -> dict[str, Any]:
    """A good event that lacks a field."""
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("event", "field", "code", "said"),
    [
        (5, "", "bad_message", "must be an object"),
        (None, "", "bad_message", "must be an object"),
        ([GOOD], "", "bad_message", "must be an object"),
        (without("type"), "type", "bad_message", "type is missing"),
        (without("room"), "room", "bad_message", "room is missing"),
        (without("data"), "data", "bad_message", "data is missing"),
        ({**GOOD, "type": 5}, "type", "bad_message", "a string"),
        ({**GOOD, "room": ["task:1"]}, "room", "bad_message", "a string"),
        ({**GOOD, "data": [1]}, "data", "bad_message", "an object"),
        ({**GOOD, "data": None}, "data", "bad_message", "an object"),
        ({**GOOD, "sender": 5}, "sender", "bad_message", "a string"),
        ({**GOOD, "id": "1-1"}, "id", "bad_message", "id is unknown"),
        ({**GOOD, "type": "task.exploded"}, "type", "unknown_type", "task.exploded"),
        ({**GOOD, "type": "send_message"}, "type", "unknown_type", "send_message"),
        ({**GOOD, "type": "user_joined", "data": {"username": "a", "user_id": 1}}, "type", "unknown_type", "itself"),
        ({**GOOD, "room": "task"}, "room", "bad_room", "entity_type:entity_id"),
        ({**GOOD, "room": "task:*"}, "room", "bad_room", "entity_type:entity_id"),
        ({**GOOD, "room": "task:1\r\n"}, "room", "bad_room", "entity_type:entity_id"),
        ({**GOOD, "room": "planet:1"}, "room", "unknown_room_type", "planet:1"),
        (
            {"type": "notification.new", "room": "task:1", "data": {"title": "A", "message": "B"}},
            "room",
            "bad_room",
            "goes to user:",
        ),
        ({**GOOD, "data": {"task_id": 1}}, "data.title", "invalid_data", "Missing data for required field."),
        ({**GOOD, "data": {**GOOD["data"], "titel": "B"}}, "data.titel", "invalid_data", "Unknown field."),
        ({**GOOD, "data": {**GOOD["data"], "task_id": 2**70}}, "data", "invalid_data", "64-bit"),
        (
            {"type": "nested.event", "room": "task:1", "data": {"where": {}}},
            "data.where.region",
            "invalid_data",
            "Missing data for required field.",
        ),
        (
            {"type": "nested.event", "room": "task:1", "data": {"where": {"region": "eu"}, "sizes": [1, "x"]}},
            "data.sizes.1",
            "invalid_data",
            "Not a valid integer.",
        ),
    ],
)
async def test_a_bad_event_is_refused_by_its_field(serve: Serve, event: Any, field: str, code: str, said: str):
    """Alone with the error frame's code and words, in a list with its index; in both the history stays as it was."""
    server = await serve(plugins=[nested])
    if not isinstance(event, list):
        status, body = await call(server, "POST", EVENTS, data=json.dumps(event))
        assert (status, body["code"]) == (422, code)
        assert said in body["error"]
    status, body = await call(server, "POST", EVENTS, data=json.dumps([GOOD, event]))
    assert (status, body["code"]) == (422, "invalid_events")
    assert body["error"].startswith("1 of 2 events cannot be published, so none was published. At index 1: ")
    (item,) = body["items"]
    assert (item["index"], item["field"], item["code"]) == (1, field, code)
    assert said in item["error"]
    _, kept = await call(server, "GET", "/api/v1/rooms/task:1/history")
    assert kept["events"] == []


async def test_every_bad_item_and_field_is_named_at_once(serve: Serve):
    """One answer is enough to put everything right: envelope, type, room and data of each item."""
    server = await serve()
    events = [
        {"type": "task.created", "room": "nowhere", "data": {"titel": "A"}, "sendr": "alice"},
        GOOD,
        {"type": "nope", "room": "planet:1", "data": 5, "sender": 5},
        {"type": "notification.new", "room": "task:1", "data": {"title": "", "priority": "huge"}},
        "x",
    ]
    status, body = await call(server, "POST", EVENTS, events)
    assert status == 422
    assert {(item["index"], item["field"]) for item in body["items"]} == {
        *((0, field) for field in ("sendr", "room", "data.task_id", "data.title", "data.titel")),
        *((2, field) for field in ("type", "room", "data", "sender")),
        *((3, field) for field in ("room", "data.title", "data.message", "data.priority")),
        (4, ""),
    }
    assert body["error"].startswith("4 of 5 events")
    assert f"({len(body['items']) - 1} more problems in items.)" in body["error"]


async def test_one_event_is_refused_in_the_shape_of_an_error_frame(serve: Serve):
    """``fields`` has the data's fields, so that one form shows either; a field of the envelope is not among them."""
    server = await serve()
    status, body = await call(server, "POST", EVENTS, {**GOOD, "data": {}, "database": 1})
    assert (status, body["code"]) == (422, "bad_message")
    assert body["error"] == "database is unknown; an event has type, room, data and sender. (2 more problems in items.)"
    missing = ["Missing data for required field."]
    assert body["fields"] == {"task_id": missing, "title": missing}
    assert [item["field"] for item in body["items"]] == ["database", "data.task_id", "data.title"]


async def test_the_answer_to_a_heap_of_nonsense_is_bounded(serve: Serve):
    """Of one event 20 problems are named, in words of a bounded length."""
    server = await serve()
    event = {**GOOD, **{f"{number}{'x' * 1000}": 1 for number in range(900)}}
    async with connect(server) as alice:
        status, body = await call(server, "POST", EVENTS, event)
        assert (status, len(body["items"])) == (422, 20)
        assert max(len(item["error"]) for item in body["items"]) < 200
        assert await alice.settled() == []
