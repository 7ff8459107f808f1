"""The command line shows the settings of plugins, and refuses what is wrong with them and with PLUGINS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin_packages import install
from shell import SECRET, Process, refusal, roomcast

SOURCE = """
from dataclasses import dataclass
from roomcast import setting

@dataclass(frozen=True)
class PollsSettings:
    archive_token: str = setting("Token for the archive", secret=True)
    pause: float = setting("Pause between two polls", default=1.5, unit="s", above=0)

plugin = Plugin("polls", settings=PollsSettings)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Install a plugin with settings; return the folder for PYTHONPATH."""
    install(tmp_path, "roomcast-polls", SOURCE, point="polls")
    return str(tmp_path)


def test_plugins_lists_the_settings(path: str) -> None:
    """The text and the JSON have the variables with their defaults and meanings."""
    text = roomcast("plugins", PYTHONPATH=path).stdout
    expected = "POLLS_ARCHIVE_TOKEN (required): Token for the archive; POLLS_PAUSE (1.5 s): Pause between two polls"
    assert expected in text
    shown = {one["plugin"]: one for one in json.loads(roomcast("plugins", "--json", PYTHONPATH=path).stdout)}
    assert shown["chat"]["settings"] == []
    assert [setting["variable"] for setting in shown["polls"]["settings"]] == ["POLLS_ARCHIVE_TOKEN", "POLLS_PAUSE"]
    assert shown["polls"]["settings"][0]["secret"] is shown["polls"]["settings"][0]["required"] is True


def test_doctor_shows_values_without_secrets(path: str) -> None:
    """Values are listed, secrets are stars, and a name that is similar to a variable is a warning."""
    given = {"POLLS_ARCHIVE_TOKEN": "t0ken-of-the-test", "POLLS_PAUSE": "2", "POLLS_PUASE": "3"}
    found = roomcast("doctor", "--port", "0", PYTHONPATH=path, JWT_SECRET=SECRET, **given).stdout
    assert "OK    Settings of plugin polls: POLLS_ARCHIVE_TOKEN=***, POLLS_PAUSE=2.0." in found
    webhook = "WEBHOOK_URL (not set), WEBHOOK_SECRET (not set), WEBHOOK_EVENTS=user.online,user.offline,room.occupied,"
    assert f"OK    Settings of plugin webhook: {webhook}" in found
    assert "WARN  POLLS_PUASE is not a setting and has no effect. Did you mean POLLS_PAUSE?" in found
    assert "t0ken" not in found


def test_doctor_reports_every_wrong_setting(path: str) -> None:
    """Each of them is a failure."""
    found = roomcast("doctor", "--port", "0", PYTHONPATH=path, JWT_SECRET=SECRET, POLLS_PAUSE="0")
    assert found.returncode == 1
    assert "FAIL  POLLS_ARCHIVE_TOKEN is not set, and plugin 'polls' needs it: Token for the archive." in found.stdout
    assert "FAIL  POLLS_PAUSE is 0.0; it must be a number above 0." in found.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_setting_stops_the_start(path: str, workers: str) -> None:
    """The server and the supervisor print one sentence."""
    given = {"PYTHONPATH": path, "JWT_SECRET": SECRET}
    if workers != "1":
        given["REDIS_URL"] = "redis://127.0.0.1:1"
    sentence = refusal("serve", "--port", "0", "--workers", workers, **given)
    assert sentence == "POLLS_ARCHIVE_TOKEN is not set, and plugin 'polls' needs it: Token for the archive."


def test_plugins_selects_plugins(path: str, tmp_path: Path) -> None:
    """A server loads only the named plugins, so that a broken one does not matter, and the log lists them in order."""
    install(tmp_path, "broken", "raise LookupError")
    given = {"PYTHONPATH": path, "JWT_SECRET": SECRET, "PLUGINS": "task, polls", "POLLS_ARCHIVE_TOKEN": "x"}
    with Process("serve", "--port", "0", **given) as server:
        server.wait_for("plugins: core, task, polls", server.err)
    assert [one["plugin"] for one in json.loads(roomcast("plugins", "--json", **given).stdout)] == [
        *("core", "task", "polls")
    ]
    assert "OK    These plugins load: core, task, polls." in roomcast("doctor", "--port", "0", **given).stdout
    document = json.loads(roomcast("schema", **given).stdout)
    assert "task.created" in str(document) and "send_message" not in str(document)


@pytest.mark.parametrize("command", ["serve", "plugins", "schema", "doctor"])
def test_an_unknown_name_in_plugins(command: str) -> None:
    """Every command prints the sentence."""
    sentence = "PLUGINS has 'chta', but no installed package has such a plugin; did you mean chat?"
    given = {"JWT_SECRET": SECRET, "PLUGINS": "chta"}
    if command == "doctor":
        assert f"FAIL  {sentence}" in roomcast(command, "--port", "0", **given).stdout
    else:
        assert refusal(command, **given) == sentence


def test_doctor_warns_of_risky_settings() -> None:
    """The warning is that of the plugin, and is not a failure."""
    given = {"JWT_SECRET": SECRET, "WEBHOOK_SECRET": f"whsec_{'QUFB' * 11}", "WEBHOOK_URL": "http://example.com/"}
    found = roomcast("doctor", "--port", "0", **given)
    assert found.returncode == 0, found.stdout
    assert "WARN  WEBHOOK_URL begins with http://, so the events can be read on the way to example.com;" in found.stdout


def test_doctor_reports_settings_that_do_not_fit_together() -> None:
    """They are a failure, and not listed as right too."""
    found = roomcast("doctor", "--port", "0", JWT_SECRET=SECRET, WEBHOOK_URL="http://127.0.0.1:9/")
    assert "FAIL  The settings of plugin 'webhook' are wrong: WEBHOOK_URL needs WEBHOOK_SECRET" in found.stdout
    assert "Settings of plugin webhook:" not in found.stdout
