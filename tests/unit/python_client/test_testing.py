"""Tests of ``roomcast_client.testing``: what is recorded, and that it refuses what a real server refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from serving import KEY, Serve, registry_with, url

from roomcast.registry import Registry
from roomcast.specs.asyncapi import asyncapi
from roomcast_client import AsyncRoomcast, Conflict, Event, Refused, Roomcast, ServerFailed, calls
from roomcast_client.testing import Call, InvalidEvent, Recorder

TASK = {"task_id": 1, "title": "A"}
TYPING = {"user_id": 1, "username": "alice", "typing": True}


@pytest.fixture(scope="module")
def document(zoo_registry: Registry) -> dict[str, Any]:
    """Return the document of a server with the plugins of the tests."""
    return asyncapi(zoo_registry)


@pytest.fixture
def recorder(document: dict[str, Any]) -> Recorder:
    """Return a recorder."""
    return Recorder(document)


async def test_both_clients_are_recorded(recorder: Recorder) -> None:
    """Events have the fields that the application gave; the ids of a room count up."""
    assert recorder.client.publish("task.created", "task:1", TASK, sender="alice") == "recorded-1"
    events = [Event("task.created", "task:1", TASK, key="k"), Event("typing", "channel:1", TYPING)]
    assert await recorder.async_client.batch(events) == ["recorded-2", None]
    assert recorder.events == [Event("task.created", "task:1", TASK, "alice"), *events]


def test_what_is_recorded_is_what_is_sent(recorder: Recorder) -> None:
    """Data is recorded as JSON, and later changes of the objects do not change it."""
    data: dict[str, Any] = {"task_id": 1, "changes": {"tags": ("a", "b")}}
    recorder.client.publish("task.updated", "task:1", data)
    data["task_id"] = 2
    assert recorder.events == [Event("task.updated", "task:1", {"task_id": 1, "changes": {"tags": ["a", "b"]}})]


def test_keys_work_as_at_a_server(recorder: Recorder) -> None:
    """A repeat is not recorded again, and another event with the same key is refused."""
    first = recorder.client.publish("task.created", "task:1", TASK, key="k")
    assert recorder.client.publish("task.created", "task:1", TASK, key="k") == first
    with pytest.raises(Conflict):
        recorder.client.publish("task.created", "task:1", TASK | {"task_id": 2}, key="k")
    batch = [Event("task.created", "task:1", TASK, key="own")]
    assert recorder.client.batch(batch) == recorder.client.batch(batch)
    assert len(recorder.events) == 2


def test_other_calls_are_recorded_and_answered(recorder: Recorder) -> None:
    """Each method has an entry with its arguments, and an answer that a test can change."""
    client = recorder.client
    recorder.answers["members"] = {"members": [{"user_id": 7, "username": "alice", "connections": 1}]}
    assert client.members("user:a%7Cb") == [(7, "alice", 1)]
    assert client.rooms() == [] and client.history("task:1").events == []
    assert client.kick("task:1", 7) == client.disconnect("a/b") == 0
    client.revoke(7)
    client.revoke_token(7, "x")
    assert not client.online("bob").online and client.online_many([1]) == []
    assert client.ticket("token").expires_in == 30
    assert recorder.calls == [
        ("members", ("user:a%7Cb",)),
        ("rooms", ()),
        ("history", ("task:1",)),
        ("kick", ("task:1", 7)),
        ("disconnect", ("a/b",)),
        ("revoke", (7,)),
        ("revoke_token", (7, "x")),
        ("online", ("bob",)),
        ("online_many", ()),
        ("ticket", ()),
    ]
    assert {call.name for call in recorder.calls} | {"publish", "batch"} == {
        name for name in vars(Roomcast) if name in vars(AsyncRoomcast) and name in vars(calls) and name[0] != "_"
    }
    assert isinstance(recorder.calls[0], Call)


def test_failures_of_the_server_are_simulated(recorder: Recorder) -> None:
    """In the block, calls raise and nothing is recorded; after it they work."""
    with recorder.failing(), pytest.raises(ServerFailed):
        recorder.client.publish("task.created", "task:1", TASK)
    with recorder.failing(422, "bad_room"), pytest.raises(Refused):
        recorder.client.rooms()
    assert recorder.events == recorder.calls == []
    recorder.client.publish("task.created", "task:1", TASK)


#: Events, with the fields that are wrong.
EVENTS: list[tuple[str, str, Any, list[str]]] = [
    ("task.created", "task:1", TASK, []),
    ("task.created", "task:1", {**TASK, "assignee": None}, []),
    ("task.created", "task:1", {"task_id": 1}, ["data.title"]),
    ("task.created", "task:1", {"titel": "A"}, ["data.task_id", "data.titel", "data.title"]),
    ("task.created", "task:1", {**TASK, "title": 5}, ["data.title"]),
    ("task.creatd", "task:1", TASK, ["type"]),
    ("task.created", "nowhere", TASK, ["room"]),
    ("task.created", "nothing:1", TASK, ["room"]),
    ("task.created", "task:a b", TASK, ["room"]),
    ("task.created", f"task:{'a' * 129}", {"task_id": 1}, ["data.title", "room"]),
    ("user_joined", "task:1", {"username": "a", "user_id": 1}, ["type"]),
    ("notification.new", "user:7", {"title": "A", "message": "B"}, []),
    ("notification.new", "user:auth0%7C1", {"title": "A", "message": "B", "priority": "high"}, []),
    ("notification.new", "user:7", {"title": "", "message": "B", "priority": "huge"}, ["data.priority", "data.title"]),
    ("notification.new", "task:1", {"title": "A", "message": "B"}, ["room"]),
    ("typing", "channel:1", TYPING, []),
]


@pytest.mark.parametrize(("type", "room", "data", "fields"), EVENTS)
async def test_the_recorder_refuses_what_a_server_refuses(
    type: str, room: str, data: Any, fields: list[str], recorder: Recorder, serve: Serve
) -> None:
    """Both name the same fields. The error of the recorder has them in its text."""
    server = await serve()
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        if not fields:
            await client.publish(type, room, data)
            recorder.client.publish(type, room, data)
            return
        with pytest.raises(Refused) as refused:
            await client.publish(type, room, data)
    with pytest.raises(InvalidEvent) as invalid:
        recorder.client.publish(type, room, data)
    assert sorted(one.field for one in invalid.value.problems) == fields
    assert sorted(one.field for one in refused.value.problems) == fields
    assert all(f"{type} in {room}: {field}: " in str(invalid.value) for field in fields)
    assert recorder.events == []


def test_nested_fields_are_named(recorder: Recorder) -> None:
    """The path goes into objects and lists."""
    data = {"animal": "a", "kilos": 1, "keeper": {"nam": "bob"}, "treats": ["nut", "hay"]}
    with pytest.raises(InvalidEvent) as invalid:
        recorder.client.publish("animal.fed", "cage:1", data)
    fields = sorted(one.field for one in invalid.value.problems)
    assert fields == ["data.keeper.nam", "data.keeper.name", "data.treats.1"]


def test_one_wrong_event_refuses_a_list(recorder: Recorder) -> None:
    """Nothing of it is recorded."""
    with pytest.raises(InvalidEvent, match=r"task\.deleted in task:2: data\.task_id: It is missing"):
        recorder.client.batch([Event("task.created", "task:1", TASK), Event("task.deleted", "task:2")])
    assert recorder.events == []


def test_an_error_that_the_application_catches_is_raised_at_the_end(document: dict[str, Any]) -> None:
    """``except Exception`` in the application does not hide it."""
    with pytest.raises(InvalidEvent), Recorder(document) as recorder:
        try:
            recorder.client.publish("task.created", "task:1", {})
        except Exception:
            assert recorder.events == []


async def test_the_document_can_be_a_file_or_a_url(tmp_path: Path, serve: Serve) -> None:
    """Both are the document of a server; something else is refused."""
    server = await serve()
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(asyncapi(registry_with())))

    for source in (path, str(path), url(server, "/asyncapi.json")):
        recorder = await asyncio.to_thread(Recorder, source)
        recorder.client.publish("task.created", "task:1", TASK)
    for wrong in ({}, {"asyncapi": "3.0.0"}):
        with pytest.raises(ValueError, match="`roomcast schema`"):
            Recorder(wrong)
