"""Validation of the events of a request: every problem is reported with its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from marshmallow import Schema, fields
from serving import WITH_KEY, GatewayClient, connect, task_created

from roomcast import Plugin

EVENTS = "/api/v1/events"
GOOD = task_created()

nested = Plugin("nested")


class Where(Schema):
    region = fields.String(required=True)


@nested.event("nested.event")
class Nested(Schema):
    where = fields.Nested(Where, required=True)
    sizes = fields.List(fields.Integer())
    database = fields.String()


async def publish(client: TestClient, events: Any) -> tuple[int, Any]:
    """Publish ``events``; return the status and the body."""
    # Not json=events, with which aiohttp would send no body for None.
    response = await client.post(EVENTS, data=json.dumps(events), headers=WITH_KEY)
    return response.status, await response.json()


def without(name: str) -> dict[str, Any]:
    """Return a good event without one of its fields."""
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("event", "field", "code", "error"),
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
        ({**GOOD, "key": 5}, "key", "bad_message", "key must be a string of 1 to 128 printable characters."),
        ({**GOOD, "key": ""}, "key", "bad_message", "printable"),
        ({**GOOD, "key": "x" * 129}, "key", "bad_message", "printable"),
        ({**GOOD, "key": "a\n"}, "key", "bad_message", "printable"),
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
async def test_a_bad_event_is_refused_by_its_field(
    gateway_client: GatewayClient, event: Any, field: str, code: str, error: str
):
    """A single event gets the code and sentence of an error frame, an event in a list its index. None is published."""
    client = await gateway_client(plugins=[nested])
    if not isinstance(event, list):
        status, body = await publish(client, event)
        assert (status, body["code"]) == (422, code)
        assert error in body["error"]
    status, body = await publish(client, [GOOD, event])
    assert (status, body["code"]) == (422, "invalid_events")
    assert body["error"].startswith("1 of 2 events cannot be published, so none was published. At index 1: ")
    (item,) = body["items"]
    assert (item["index"], item["field"], item["code"]) == (1, field, code)
    assert error in item["error"]
    response = await client.get("/api/v1/rooms/task:1/history", headers=WITH_KEY)
    assert (await response.json())["events"] == []


async def test_all_problems_are_reported_at_once(gateway_client: GatewayClient):
    """The response contains the problems of envelope, type, room and data of every event."""
    client = await gateway_client()
    events = [
        {"type": "task.created", "room": "nowhere", "data": {"titel": "A"}, "sendr": "alice"},
        GOOD,
        {"type": "nope", "room": "planet:1", "data": 5, "sender": 5},
        {"type": "notification.new", "room": "task:1", "data": {"title": "", "priority": "huge"}},
        "x",
    ]
    status, body = await publish(client, events)
    assert status == 422
    assert {(item["index"], item["field"]) for item in body["items"]} == {
        *((0, field) for field in ("sendr", "room", "data.task_id", "data.title", "data.titel")),
        *((2, field) for field in ("type", "room", "data", "sender")),
        *((3, field) for field in ("room", "data.title", "data.message", "data.priority")),
        (4, ""),
    }
    assert body["error"].startswith("4 of 5 events")
    assert f"({len(body['items']) - 1} more problems in items.)" in body["error"]


async def test_the_refusal_of_one_event_has_the_shape_of_an_error_frame(gateway_client: GatewayClient):
    """``fields`` contains only fields of the data, as in an error frame, so that a form can show either."""
    client = await gateway_client()
    status, body = await publish(client, {**GOOD, "data": {}, "database": 1})
    assert (status, body["code"]) == (422, "bad_message")
    assert (
        body["error"]
        == "database is unknown; an event has type, room, data, sender and key. (2 more problems in items.)"
    )
    missing = ["Missing data for required field."]
    assert body["fields"] == {"task_id": missing, "title": missing}
    assert [item["field"] for item in body["items"]] == ["database", "data.task_id", "data.title"]


async def test_the_response_to_a_large_bad_event_is_small(gateway_client: GatewayClient):
    """At most 20 problems of an event are reported, and the sentences have a limited length."""
    client = await gateway_client()
    event = {**GOOD, **{f"{number}{'x' * 1000}": 1 for number in range(900)}}
    async with connect(client) as alice:
        status, body = await publish(client, event)
        assert (status, len(body["items"])) == (422, 20)
        assert max(len(item["error"]) for item in body["items"]) < 200
        assert await alice.settled() == []
