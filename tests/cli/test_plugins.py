"""``roomcast plugins``: what each plugin adds, as text and as JSON."""

import json
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest
from plugin_packages import install
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
    assert chat["events_not_stored"] == ["typing"]
    assert chat["room_types"] == ["channel"]
    assert chat["routes"] == []


def test_the_options_of_room_types_are_listed():
    """The text and the JSON have the options that plugins declare or variables set, and no others."""
    environ = {"ROOM_CHANNEL_HISTORY_SIZE": "1000", "ROOM_CHANNEL_COMMANDS": "send_message,edit_message"}
    text = roomcast("plugins", **environ).stdout
    assert "channel: history_size=1000, commands=send_message edit_message" in text
    shown = {plugin["plugin"]: plugin for plugin in json.loads(roomcast("plugins", "--json", **environ).stdout)}
    options = {"history_size": 1000, "commands": ["send_message", "edit_message"]}
    assert shown["chat"]["room_options"] == {"channel": options}
    assert shown["task"]["room_options"] == {}


def test_a_wrong_option_is_an_error():
    """The command fails as the server does."""
    result = roomcast("plugins", ROOM_CHANEL_PRESENCE="false")
    assert result.returncode == 2
    assert "did you mean ROOM_CHANNEL_PRESENCE?" in result.stderr


def test_hooks_are_listed_in_order(tmp_path: Path) -> None:
    """The text has all hooks in the order in which they run; the JSON has those of each plugin, with their position."""
    source = """
    from roomcast import Plugin

    first, second = Plugin("first"), Plugin("second")

    @first.before_publish("message", order=2)
    async def later(service, event): ...

    @second.before_publish("message", order=-1)
    async def earlier(service, event): ...

    @second.on_connect
    async def welcome(ctx): ...
    """
    (tmp_path / "hooked.py").write_text(textwrap.dedent(source))
    info = tmp_path / "hooked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[roomcast.plugins]\nfirst = hooked:first\nsecond = hooked:second\n")
    given = {"PYTHONPATH": str(tmp_path), "PLUGINS": "chat, first, second"}
    lines = roomcast("plugins", **given).stdout.splitlines()
    start = lines.index("hooks, in the order in which they run")
    assert [line.split() for line in lines[start + 1 :]] == [
        ["on_connect", "second.welcome"],
        ["before_publish", "message", "second.earlier", "(order", "-1)"],
        ["before_publish", "message", "first.later", "(order", "2)"],
    ]
    shown = {one["plugin"]: one for one in json.loads(roomcast("plugins", "--json", **given).stdout)}
    later = {"hook": "before_publish", "target": "message", "function": "later", "order": 2, "position": 2}
    assert shown["first"]["hooks"] == [{**later, "active": True}]
    assert [one["position"] for one in shown["second"]["hooks"]] == [1, 1]
    assert shown["chat"]["hooks"] == []


SWITCHED = """
from dataclasses import dataclass
from roomcast import setting

@dataclass(frozen=True)
class PollsSettings:
    token: str = setting("Token for the archive")
    archive: bool = setting("Store polls", default=False)

plugin = Plugin("polls", settings=PollsSettings)

@plugin.before_publish("message")
@plugin.only_if(lambda settings: settings.archive)
async def first(service, event): ...

@plugin.before_publish("message")
async def second(service, event): ...
"""


@pytest.mark.parametrize(
    ("variables", "active", "positions", "words"),
    [
        ({"POLLS_TOKEN": "x"}, False, [None, 1], " (not active)"),
        ({"POLLS_TOKEN": "x", "POLLS_ARCHIVE": "true"}, True, [1, 2], ""),
        ({}, None, [None, 1], " (perhaps not active: settings of the plugin are missing or wrong)"),
    ],
)
def test_a_hook_that_a_setting_switches_off(tmp_path: Path, variables, active, positions, words) -> None:
    """It is listed with its state, and has a position only if it runs."""
    install(tmp_path, "roomcast-polls", SWITCHED, point="polls")
    given = {"PYTHONPATH": str(tmp_path), **variables}
    lines = roomcast("plugins", "polls", **given).stdout.splitlines()
    listed = [" ".join(line.split()) for line in lines[lines.index("hooks, in the order in which they run") + 1 :]]
    assert listed == [f"before_publish message polls.first{words}", "before_publish message polls.second"]
    (shown,) = json.loads(roomcast("plugins", "polls", "--json", **given).stdout)
    assert [one["active"] for one in shown["hooks"]] == [active, True]
    assert [one["position"] for one in shown["hooks"]] == positions


def test_the_webhook_plugin_without_a_url() -> None:
    """Its hooks are listed as not active, and the default of a list is shown as its variable would have it."""
    text = roomcast("plugins", "webhook").stdout
    assert "WEBHOOK_EVENTS (user.online,user.offline,room.occupied,room.vacated,event.published): " in text
    assert "came_online (on_online, not active)" in text
    assert "webhook.came_online (not active)" in text
    given = {"WEBHOOK_URL": "https://example.com/", "WEBHOOK_SECRET": f"whsec_{'QUFB' * 11}"}
    assert "not active" not in roomcast("plugins", "webhook", **given).stdout


def test_a_hook_without_a_target_is_an_error(tmp_path: Path) -> None:
    """The command fails as the server does, with the name of the hook and of its plugin."""
    source = 'from roomcast import Plugin\np = Plugin("p")\n@p.on_join("nothing")\nasync def f(ctx): ...\n'
    (tmp_path / "hooked.py").write_text(source)
    info = tmp_path / "hooked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[roomcast.plugins]\np = hooked:p\n")
    result = roomcast("plugins", PYTHONPATH=str(tmp_path))
    assert result.returncode
    assert "hook f (on_join of room type nothing) of plugin 'p' cannot be called" in result.stderr
