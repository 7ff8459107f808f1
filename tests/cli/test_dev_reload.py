"""``roomcast dev --plugin --reload``: changes of a plugin take effect, and clients miss nothing."""

import json
import re
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import shell
from invoking import invoke
from shell import Process
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PLUGIN = '''
"""A plugin under development."""

from marshmallow import Schema, fields
from roomcast import Context, Plugin

demo = Plugin("demo")
demo.room("demo", history_size=20)


@demo.event("demo.said")
class Said(Schema):
    """A text."""

    text = fields.String(required=True)


@demo.command("demo.say", Said)
async def say(ctx: Context, data: dict) -> dict:
    """Say it."""
    return {"id": await ctx.publish(Said, {"text": VERSION + data["text"]})}


VERSION = "one "
'''

#: Every wait of this module, in seconds.
PATIENCE = 120


@pytest.fixture
def dev(tmp_path: Path, monkeypatch):
    """A server with the plugin in the current directory, and the file of the plugin."""
    monkeypatch.setattr(shell, "PATIENCE", PATIENCE)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "demo_plugin.py"
    file.write_text(PLUGIN)
    with Process("dev", "--port", "0", "--reload", "--plugin", "demo_plugin:demo", "--json") as process:
        process.wait_for("^{", process.out)
        yield process, file, json.loads(process.out[0])


class Client:
    """A connected member of the room demo:1."""

    def __init__(self, document: dict, since: str | None = None) -> None:
        url = document["url"].replace("http", "ws", 1)
        token = document["environment"]["ROOMCAST_TOKEN"]
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(connect(f"{url}/api/v1/ws/connect?token={token}"))
        self.receive("connected")
        self.socket.send(json.dumps({"type": "join_room", "room": "demo:1", "data": {"since": since} if since else {}}))
        self.joined = self.receive("joined_room")["data"]

    def receive(self, type: str) -> dict:
        """Return the next frame of ``type``."""
        while (frame := json.loads(self.socket.recv(PATIENCE)))["type"] != type:
            assert frame["type"] != "error" or type == "error", frame
        return frame

    def close(self) -> None:
        """Close the connection."""
        with suppress(ConnectionClosed):
            self._stack.close()

    def say(self, text: str) -> None:
        """Send the command of the plugin."""
        self.socket.send(json.dumps({"type": "demo.say", "room": "demo:1", "id": 1, "data": {"text": text}}))


def problems(document: dict) -> dict:
    """Return what the console shows."""
    request = urllib.request.Request(f"{document['url']}/console/problems", headers={"X-Roomcast-Console": "1"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.loads(response.read())


def test_a_change_takes_effect_and_clients_miss_nothing(dev):
    """The secret, the port, the event ids and the history survive; a broken change does not end the server."""
    process, file, document = dev
    client = Client(document)
    client.say("a")
    first = client.receive("demo.said")
    assert first["data"] == {"text": "one a"}
    client.say("b")
    second = client.receive("demo.said")

    # A syntax error: the server goes on with the code before, and reports the error.
    file.write_text(PLUGIN + "\ndef broken(:\n")
    process.wait_for("The plugin cannot be loaded", process.err)
    process.wait_for("SyntaxError", process.err)
    assert "SyntaxError" in problems(document)["plugin"]
    client.say("c")
    third = client.receive("demo.said")
    assert third["data"] == {"text": "one c"}

    # A correct change: clients are closed with 1012, and resume.
    file.write_text(PLUGIN.replace('"one "', '"two "'))
    with pytest.raises(Exception, match="1012"):
        client.receive("never")
    process.wait_for("loaded again", process.err)
    client.close()
    client = Client(document, since=first["id"])
    assert client.joined["recovered"] is True
    assert [client.receive("demo.said") for _ in range(2)] == [second, third]
    client.say("d")
    fourth = client.receive("demo.said")
    assert fourth["data"] == {"text": "two d"}
    assert fourth["id"].rpartition("-")[0] == first["id"].rpartition("-")[0]
    assert problems(document)["plugin"] is None
    assert problems(document)["loads"] == 2

    # A handler that fails: its traceback is in the console.
    file.write_text(PLUGIN.replace("VERSION + data", "1 / 0 + data"))
    process.wait_for("loaded again", process.err, times=2)
    client.close()
    client = Client(document, since=fourth["id"])
    client.say("e")
    assert client.receive("error")["data"]["code"] == "internal"
    (traceback,) = problems(document)["tracebacks"]
    assert re.search(r"demo_plugin\.py.*\n.*1 / 0(.*\n)*ZeroDivisionError: division by zero", traceback["traceback"])
    client.close()


def test_a_plugin_that_is_broken_at_first(tmp_path, monkeypatch):
    """The server runs without the plugin until the next change."""
    monkeypatch.setattr(shell, "PATIENCE", PATIENCE)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "demo_plugin.py"
    file.write_text("import nothing_like_this\n")
    with Process("dev", "--port", "0", "--reload", "--plugin", "demo_plugin:demo", "--json") as process:
        process.wait_for("^{", process.out)
        document = json.loads(process.out[0])
        assert "demo" not in document["plugins"]
        assert "nothing_like_this" in problems(document)["plugin"]
        file.write_text(PLUGIN)
        process.wait_for("loaded again: .*demo", process.err)
        client = Client(document)
        client.say("a")
        assert client.receive("demo.said")["data"] == {"text": "one a"}
        client.close()
    assert process.process.returncode == 0


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("--reload",), 2, "--reload needs --plugin"),
        (("--plugin", "nothing_like_this:demo"), 2, "There is no module 'nothing_like_this'"),
        (("--plugin", "nothing"), 2, "not of the form MODULE:ATTRIBUTE"),
    ],
)
def test_options_that_cannot_work(args, status, words):
    """The command ends with a sentence."""
    done = invoke("dev", *args)
    assert done.exit_code == status
    assert words in done.stderr
