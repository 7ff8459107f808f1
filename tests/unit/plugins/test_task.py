"""Tests of ``plugins.task``: events that backends publish, as documented."""

from __future__ import annotations

import json

import pytest

from roomcast import Refused
from roomcast.plugins.task import task

pytest_plugins = ("roomcast.testing",)

#: The examples in docs/protocol.md.
CREATED = """
{
  "type": "task.created",
  "room": "project:123",
  "data": {
    "task_id": 789,
    "title": "New feature implementation",
    "status": "todo",
    "priority": "high",
    "assignee": "bob",
    "creator": "alice"
  },
  "sender": "alice",
  "timestamp": "2025-11-13T12:00:00Z"
}
"""
STATUS_CHANGED = """
{
  "type": "task.status_changed",
  "room": "project:123",
  "data": {
    "task_id": 789,
    "old_status": "todo",
    "new_status": "in_progress",
    "changed_by": "bob"
  },
  "sender": "system",
  "timestamp": "2025-11-13T12:00:00Z"
}
"""

#: The required data of each event, and its optional data.
EVENTS = {
    "task.created": (
        {"task_id": 1, "title": "T"},
        {"status": "todo", "priority": "low", "assignee": None, "creator": "a"},
    ),
    "task.updated": ({"task_id": 1, "changes": {"title": ["old", "new"]}}, {"updated_by": "a"}),
    "task.status_changed": ({"task_id": 1, "old_status": "todo", "new_status": "done"}, {"changed_by": "a"}),
    "task.assigned": ({"task_id": 1, "assignee": "bob"}, {"assigned_by": "a"}),
    "task.deleted": ({"task_id": 1}, {"deleted_by": "a"}),
}


@pytest.mark.parametrize("text", [CREATED, STATUS_CHANGED], ids=["created", "status_changed"])
async def test_the_documented_events(gateway, connect, text) -> None:
    """The examples are delivered unchanged, with a timestamp and an id."""
    example = json.loads(text)
    bob = await connect("bob", rooms=["project:123"])
    await bob.join("project:123")
    id = await gateway.service.publish(example["type"], example["room"], example["data"], sender=example["sender"])
    event = await bob.next(example["type"])
    assert event == example | {"timestamp": event["timestamp"], "id": id}


@pytest.mark.parametrize("room", ["task:789", "project:123", "channel:456"])
@pytest.mark.parametrize("type", EVENTS)
async def test_events_reach_the_room(gateway, connect, type, room) -> None:
    """Events with the required and with all fields are delivered unchanged."""
    required, optional = EVENTS[type]
    bob = await connect("bob", rooms=["*"])
    await bob.join(room)
    for data in (required, required | optional):
        await gateway.service.publish(type, room, data)
        event = await bob.next(type)
        assert event["data"] == data
        assert event.keys() == {"type", "room", "data", "timestamp", "id"}


@pytest.mark.parametrize("type", EVENTS)
async def test_an_id_is_an_integer_or_a_string(gateway, type) -> None:
    """Other types are refused with the name of the field, and nothing is published."""
    required = EVENTS[type][0]
    for id in (0, -1, 2**53, "789", "TASK-789"):
        await gateway.service.publish(type, "task:1", required | {"task_id": id})
    for id in (None, True, 1.5, [1], {"id": 1}):
        with pytest.raises(Refused) as refused:
            await gateway.service.publish(type, "task:1", required | {"task_id": id})
        assert (refused.value.code, list(refused.value.fields)) == ("invalid_data", ["task_id"])
    stored = await gateway.service.history("task:1")
    assert [event["data"]["task_id"] for event in stored] == [0, -1, 2**53, "789", "TASK-789"]


@pytest.mark.parametrize(
    ("type", "field"), [(type, field) for type, (required, _) in EVENTS.items() for field in required]
)
async def test_required_fields(gateway, type, field) -> None:
    """A missing required field is named, and nothing is published."""
    data = {name: value for name, value in EVENTS[type][0].items() if name != field}
    with pytest.raises(Refused) as refused:
        await gateway.service.publish(type, "task:1", data)
    assert refused.value.fields == {field: ["Missing data for required field."]}
    assert await gateway.service.history("task:1") == []


@pytest.mark.parametrize("type", EVENTS)
async def test_a_misspelled_field_is_refused(gateway, type) -> None:
    """The unknown field is named."""
    with pytest.raises(Refused) as refused:
        await gateway.service.publish(type, "task:1", EVENTS[type][0] | {"asignee": "bob"})
    assert refused.value.fields == {"asignee": ["Unknown field."]}


async def test_a_task_without_an_assignee(gateway, connect) -> None:
    """The assignee may be null."""
    bob = await connect("bob", rooms=["*"])
    await bob.join("task:789")
    await gateway.service.publish("task.assigned", "task:789", {"task_id": 789, "assignee": None})
    assert (await bob.next("task.assigned"))["data"] == {"task_id": 789, "assignee": None}


async def test_clients_cannot_publish_events(connect) -> None:
    """The events are not commands."""
    bob = await connect("bob", rooms=["*"])
    await bob.join("task:789")
    for type, (required, _) in EVENTS.items():
        with pytest.raises(Refused) as refused:
            await bob.command(type, required, room="task:789")
        assert refused.value.code == "unknown_type"
        await bob.nothing(type)


async def test_the_token_decides_about_joins(connect) -> None:
    """The built-in rule applies to the rooms."""
    bob = await connect("bob", rooms=["task:1"])
    await bob.join("task:1")
    with pytest.raises(Refused) as refused:
        await bob.join("task:2")
    assert refused.value.code == "forbidden"


def test_the_json_schema_of_an_id() -> None:
    """Forms and generated clients get both types."""
    schema = task.events["task.created"].validator.json_schema()
    assert schema["properties"]["task_id"]["type"] == ["integer", "string"]
    assert sorted(schema["required"]) == ["task_id", "title"]
