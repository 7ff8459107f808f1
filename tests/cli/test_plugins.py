"""``roomcast plugins``: what each plugin adds, as text and as JSON."""

import json
from importlib.metadata import version

from shell import roomcast


def test_plugins_are_listed_with_what_they_add():
    """The JSON has the package, the entry point, the commands, the events, the room types and the routes."""
    text = roomcast("plugins").stdout
    assert "send_message" in text
    shown = {plugin["plugin"]: plugin for plugin in json.loads(roomcast("plugins", "--json").stdout)}
    chat = shown["chat"]
    assert chat["package"] == f"roomcast {version('roomcast')}"
    assert chat["entry_point"] == "chat"
    assert "send_message" in chat["commands"]
    assert chat["commands_for_anyone"] == []
    assert "join_room" in shown["core"]["commands_for_anyone"]
    assert "message" in chat["events"]
    assert chat["room_types"] == ["channel"]
    assert chat["routes"] == []
