"""Tests of ``plugins.project``: events that backends publish."""

from __future__ import annotations

import pytest

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)

ROOM = "project:123"

#: The required data of each event, and its optional data.
EVENTS = {
    "project.updated": ({"project_id": 123, "changes": {"name": "New"}}, {"updated_by": "alice"}),
    "project.archived": ({"project_id": 123}, {"archived_by": "alice"}),
}


@pytest.mark.parametrize("type", EVENTS)
async def test_events_reach_the_room(gateway, connect, type) -> None:
    """Events with the required and with all fields are delivered unchanged."""
    required, optional = EVENTS[type]
    bob = await connect("bob", rooms=[ROOM])
    await bob.join(ROOM)
    for data, sender in ((required, None), (required | optional, "alice")):
        id = await gateway.service.publish(type, ROOM, data, sender=sender)
        event = await bob.next(type)
        expected_sender = {} if sender is None else {"sender": sender}
        assert event == {
            "type": type,
            "room": ROOM,
            "data": data,
            "timestamp": event["timestamp"],
            "id": id,
            **expected_sender,
        }
    await bob.nothing(type)


@pytest.mark.parametrize("type", EVENTS)
async def test_an_id_is_an_integer_or_a_string(gateway, type) -> None:
    """Other types are refused with the name of the field, and nothing is published."""
    required = EVENTS[type][0]
    for id in (123, "roomcast"):
        await gateway.service.publish(type, ROOM, required | {"project_id": id})
    for id in (None, False, 1.5, [], {}):
        with pytest.raises(Refused) as refused:
            await gateway.service.publish(type, ROOM, required | {"project_id": id})
        assert (refused.value.code, list(refused.value.fields)) == ("invalid_data", ["project_id"])
    stored = await gateway.service.history(ROOM)
    assert [event["data"]["project_id"] for event in stored] == [123, "roomcast"]


@pytest.mark.parametrize(
    ("type", "field"), [(type, field) for type, (required, _) in EVENTS.items() for field in required]
)
async def test_required_fields(gateway, type, field) -> None:
    """A missing required field is named, and nothing is published."""
    data = {name: value for name, value in EVENTS[type][0].items() if name != field}
    with pytest.raises(Refused) as refused:
        await gateway.service.publish(type, ROOM, data)
    assert refused.value.fields == {field: ["Missing data for required field."]}
    assert await gateway.service.history(ROOM) == []


@pytest.mark.parametrize("changes", [None, [], "name", 1])
async def test_changes_must_be_an_object(gateway, changes) -> None:
    """Other types of ``changes`` are refused."""
    with pytest.raises(Refused) as refused:
        await gateway.service.publish("project.updated", ROOM, {"project_id": 1, "changes": changes})
    assert list(refused.value.fields) == ["changes"]


async def test_clients_cannot_publish_events(connect) -> None:
    """The events are not commands."""
    bob = await connect("bob", rooms=["*"])
    await bob.join(ROOM)
    for type, (required, _) in EVENTS.items():
        with pytest.raises(Refused) as refused:
            await bob.command(type, required, room=ROOM)
        assert refused.value.code == "unknown_type"
        await bob.nothing(type)


async def test_the_token_decides_about_joins(connect) -> None:
    """The built-in rule applies to the rooms."""
    bob = await connect("bob", rooms=["project:1"])
    await bob.join("project:1")
    with pytest.raises(Refused) as refused:
        await bob.join(ROOM)
    assert refused.value.code == "forbidden"
