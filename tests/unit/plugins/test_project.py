"""Projects: backends say that one changed or was archived, and its room hears of it."""

from __future__ import annotations

import pytest

from roomcast import Refused

pytest_plugins = ("roomcast.testing",)

ROOM = "project:123"

#: What the least of each event is, and the rest that it may have.
EVENTS = {
    "project.updated": ({"project_id": 123, "changes": {"name": "New"}}, {"updated_by": "alice"}),
    "project.archived": ({"project_id": 123}, {"archived_by": "alice"}),
}


@pytest.mark.parametrize("type", EVENTS)
async def test_every_event_of_a_project_reaches_its_room(gateway, connect, type):
    """The least that it must have is enough, all that it may have arrives, and nothing is added."""
    least, rest = EVENTS[type]
    bob = await connect("bob", rooms=[ROOM])
    await bob.join(ROOM)
    for data, sender in ((least, None), (least | rest, "alice")):
        id = await gateway.service.publish(type, ROOM, data, sender=sender)
        event = await bob.next(type)
        named = {} if sender is None else {"sender": sender}
        assert event == {
            "type": type,
            "room": ROOM,
            "data": data,
            "timestamp": event["timestamp"],
            "id": id,
            **named,
        }
    await bob.nothing(type)


@pytest.mark.parametrize("type", EVENTS)
async def test_a_project_is_named_by_an_integer_or_a_string(gateway, type):
    """What is neither is refused by the field's name, and nothing is published of it."""
    least = EVENTS[type][0]
    for id in (123, "roomcast"):
        await gateway.service.publish(type, ROOM, least | {"project_id": id})
    for id in (None, False, 1.5, [], {}):
        with pytest.raises(Refused) as refused:
            await gateway.service.publish(type, ROOM, least | {"project_id": id})
        assert (refused.value.code, list(refused.value.fields)) == ("invalid_data", ["project_id"])
    kept = await gateway.service.history(ROOM)
    assert [event["data"]["project_id"] for event in kept] == [123, "roomcast"]


@pytest.mark.parametrize(("type", "field"), [(type, field) for type, (least, _) in EVENTS.items() for field in least])
async def test_no_field_of_the_least_may_be_missing(gateway, type, field):
    """It is named, and nothing is published."""
    data = {name: value for name, value in EVENTS[type][0].items() if name != field}
    with pytest.raises(Refused) as refused:
        await gateway.service.publish(type, ROOM, data)
    assert refused.value.fields == {field: ["Missing data for required field."]}
    assert await gateway.service.history(ROOM) == []


@pytest.mark.parametrize("changes", [None, [], "name", 1])
async def test_changes_are_an_object(gateway, changes):
    """What changed is told by name."""
    with pytest.raises(Refused) as refused:
        await gateway.service.publish("project.updated", ROOM, {"project_id": 1, "changes": changes})
    assert list(refused.value.fields) == ["changes"]


async def test_clients_publish_no_projects(connect):
    """Events of projects are no commands."""
    bob = await connect("bob", rooms=["*"])
    await bob.join(ROOM)
    for type, (least, _) in EVENTS.items():
        with pytest.raises(Refused) as refused:
            await bob.command(type, least, room=ROOM)
        assert refused.value.code == "unknown_type"
        await bob.nothing(type)


async def test_a_projects_room_opens_by_the_token(connect):
    """The built-in rule guards it."""
    bob = await connect("bob", rooms=["project:1"])
    await bob.join("project:1")
    with pytest.raises(Refused) as refused:
        await bob.join(ROOM)
    assert refused.value.code == "forbidden"
