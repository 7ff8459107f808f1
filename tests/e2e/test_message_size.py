"""The default of WS_MAX_MESSAGE_SIZE fits the longest valid message of every built-in command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving import SECRET, Serve, connect, registry_with, token_for

from roomcast.auth.identity import MAX_TOKEN
from roomcast.protocol.messages import MAX_KEY
from roomcast.settings import Settings
from roomcast.specs.catalog import Entry, catalog

#: The longest entity id.
ROOM = f"channel:{'x' * 128}"
LIMIT = Settings(jwt_secret=SECRET).ws_max_message_size
COMMANDS = {entry.type: entry for entry in catalog(registry_with()) if entry.kind == "command"}
#: The values of strings to which the schemas set no limit: event ids, tokens, and the positions of members. An event id
#: has 11 + 1 + 20 characters at most, a position fewer.
UNBOUNDED = {
    "token": "t" * MAX_TOKEN,
    **dict.fromkeys(("message_id", "event_id", "since", "before", "after"), "e" * 32),
}
#: How much of the size must remain for objects to which the schemas set no limit, in bytes.
FREE = 4096


def longest_data(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the data with the longest JSON that ``schema`` allows, without objects of any size."""
    data: dict[str, Any] = {}
    for name, field in schema.get("properties", {}).items():
        types = field["type"] if isinstance(field["type"], list) else [field["type"]]
        if "string" in types:
            data[name] = UNBOUNDED[name] if name in UNBOUNDED else "😀" * field["maxLength"]
        elif "boolean" in types:
            data[name] = False
        elif {"integer", "number"} & set(types):
            data[name] = field["maximum"]
        else:
            assert "object" in types and "properties" not in field, f"{name} needs a longest value in this test"
    return data


def longest(entry: Entry) -> str:
    """Return the longest message of a command, in which every character is escaped."""
    message = {"type": entry.type, "room": ROOM, "id": "😀" * MAX_KEY, "key": "🔑" * MAX_KEY}
    return escaped(message | {"data": longest_data(entry.data or {})})


def escaped(value: Any) -> str:
    """Return ``value`` as JSON with an escape for every character, and a pair of escapes for an emoji."""
    if isinstance(value, str):
        units = value.encode("utf-16-be").hex()
        return '"' + "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4)) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{escaped(name)}: {escaped(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize("type", COMMANDS)
def test_the_longest_message_of_each_command_fits(type: str) -> None:
    """Its size, with every character escaped, is below the default by as much as is left for ``metadata``."""
    message = longest(COMMANDS[type])
    assert json.loads(message)["type"] == type
    assert len(message) <= LIMIT - FREE


async def test_the_longest_chat_message_is_delivered(serve: Serve) -> None:
    """10,000 escaped emoji arrive, with as much metadata as fits. They may be edited to as many others."""
    message = longest(COMMANDS["send_message"])
    metadata = {"note": "m" * (LIMIT - len(message) - 40)}
    sent = message[:-2] + f', "metadata": {json.dumps(metadata)}' + message[-2:]
    assert LIMIT - 20 < len(sent) <= LIMIT
    async with connect(await serve()) as alice:
        await alice.join(ROOM)
        await alice.socket.send(sent)
        event = await alice.recv_type("message")
        assert event["data"]["content"] == "😀" * 10_000
        assert event["data"]["metadata"] == metadata
        edit = json.loads(longest(COMMANDS["edit_message"]))
        edit["data"]["message_id"] = event["id"]
        await alice.socket.send(escaped(edit))
        assert (await alice.recv_type("message.edited"))["data"]["content"] == "😀" * 10_000


async def test_the_longest_token_is_accepted(serve: Serve) -> None:
    """A token of 8,192 characters, each escaped, replaces the token of the connection."""
    padding = 1
    while len(token := token_for(padding="x" * padding)) < MAX_TOKEN - 2:
        padding += max(1, (MAX_TOKEN - 2 - len(token)) * 3 // 4)
    assert len(token) <= MAX_TOKEN
    async with connect(await serve()) as alice:
        await alice.socket.send(escaped({"type": "refresh_token", "data": {"token": token}}))
        assert (await alice.recv())["type"] == "token_refreshed"
