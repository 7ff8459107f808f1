"""The command line, as it is used: each command in a process of its own, against real servers."""

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from shell import API_KEY, ROOMCAST, SECRET, Process, Running, environment, refusal, roomcast, run_curl
from websockets.sync.client import connect

from roomcast.auth.identity import Authenticator
from roomcast.settings import Settings

HELLO = '{"task_id": 7, "title": "From a shell"}'


@pytest.fixture(scope="module")
def server():
    """A server as in production."""
    with Running() as running:
        yield running


def listen(server: Running, *args: str) -> Process:
    """A listener that has joined."""
    process = Process("listen", *args, "--url", server.ws, JWT_SECRET=SECRET)
    process.wait_for(r"^Listening in", process.err, times=sum(":" in arg for arg in args if not arg.startswith("-")))
    return process


def publish(server: Running, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Publish with the server's key."""
    return roomcast("publish", *args, "--url", server.url, stdin=stdin, API_KEY=API_KEY)


# The whole.


def test_the_installed_script_knows_its_version():
    """The console script that pip puts beside Python is roomcast."""
    script = Path(sys.executable).parent / "roomcast"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"roomcast {version('roomcast')}\n"


def test_help_names_every_command_in_a_whole_sentence():
    """Somebody who has never seen it reads what each command is for; none is cut off by the width."""
    text = roomcast("--help").stdout
    commands = dict(re.findall(r"^  ([a-z]+)  +(.+)$", text.partition("Commands:")[2], re.MULTILINE))
    assert set(commands) == {"bench", "dev", "doctor", "listen", "plugins", "publish", "schema", "serve", "token"}
    assert all(words.endswith(".") and "..." not in words for words in commands.values())


# dev.


@pytest.fixture(scope="module")
def dev():
    """A server for development, with no settings at all."""
    with Running("dev", "--port", "0") as running:
        running.wait_for("Ctrl-C", running.out)
        yield running


def test_dev_prints_a_link_to_the_console_with_a_token(dev):
    """The link has the port that was bound and a token in its fragment, and there is a page."""
    link = next(line.strip() for line in dev.out if "/console#token=" in line)
    assert link.startswith(f"{dev.url}/console#token=ey")
    with urllib.request.urlopen(link.partition("#")[0]) as page:
        assert page.status == 200


def test_the_printed_lines_work_as_they_stand(dev):
    """Who runs the wscat line and types the next one hears what the curl line publishes."""
    at = next(number for number, line in enumerate(dev.out) if line.strip().startswith("wscat "))
    program, option, url = shlex.split(dev.out[at])
    assert (program, option) == ("wscat", "-c")
    with connect(url) as client:
        assert json.loads(client.recv(10))["type"] == "connected"
        client.send(dev.out[at + 1].strip())
        assert json.loads(client.recv(10))["type"] == "joined_room"
        assert json.loads(client.recv(10))["type"] == "user_joined"
        answer = run_curl(next(line.strip() for line in dev.out if line.strip().startswith("curl ")))
        event = json.loads(client.recv(10))
    assert (event["type"], event["room"], event["sender"]) == ("task.created", "project:1", "curl")
    assert event["id"] == answer["id"]


def test_the_exported_variables_are_all_that_the_other_commands_need(dev):
    """Pasted into another shell they let one publish, listen, and make tokens that the server takes."""
    exports = next(line.strip() for line in dev.out if line.strip().startswith("export "))
    names = re.findall(r"([A-Z_]+)=", exports)
    assert names == ["ROOMCAST_TOKEN", "API_KEY", "JWT_SECRET", "ROOMCAST_URL"]
    ours = dict(word.split("=", 1) for word in shlex.split(exports)[1:])
    with Process("listen", "project:1", **ours) as listener:
        listener.wait_for("Listening in project:1", listener.err)
        done = subprocess.run(
            f"{exports}\n{shlex.join([*ROOMCAST, 'publish', 'task.deleted', 'project:1', HELLO[:13] + '}'])}",
            **{"shell": True, "env": environment(), "capture_output": True, "text": True, "timeout": 30},
        )
        assert done.returncode == 0, done.stderr
        listener.wait_for(r"project:1 task\.deleted .*7", listener.out)
    token = roomcast("token", "--user-id", "9", **ours).stdout.strip()
    with connect(f"{dev.ws}/api/v1/ws/connect?token={token}") as client:
        assert json.loads(client.recv(10))["data"]["user_id"] == 9


def test_dev_says_what_is_open(dev):
    """Rooms and origins are; that is for development only, and the first line says so."""
    assert dev.out[0].endswith("every room open to everyone, pages of all origins let in")
    with Running("dev", "--port", "0", ROOM_ACCESS="claims", ALLOWED_ORIGINS="https://a.example") as running:
        running.wait_for("rooms by ROOM_ACCESS, origins by ALLOWED_ORIGINS", running.out)


def test_dev_names_its_plugins_in_one_line(dev):
    """What is loaded is seen at the start."""
    assert any(re.match("Plugins: .*chat.*project.*task", line) for line in dev.out)


def test_dev_makes_no_secret_known_to_the_log(dev):
    """Neither the token nor the API key of the run is in the log."""
    text = "\n".join(dev.out)
    token = re.search(r"#token=(\S+)", text)[1]
    key = re.search(r"Bearer ([^'\"]+)", text)[1]
    log = "\n".join(dev.err)
    assert token not in log
    assert key not in log


def test_dev_takes_the_next_port_if_its_own_is_taken(server):
    """A developer who runs two is told which port the second is on."""
    port = int(server.url.rpartition(":")[2])
    with Running("dev", "--port", str(port)) as second:
        second.wait_for(f"Port {port} is taken", second.out)
        other = int(second.url.rpartition(":")[2])
        assert port < other <= port + 20
        second.wait_for(f":{other}/console", second.out)


def test_dev_keeps_the_secret_and_the_key_that_are_set():
    """A front end with tokens of its own can go on using them."""
    with Running("dev", "--port", "0", JWT_SECRET=SECRET, API_KEY=API_KEY) as running:
        running.wait_for(f"Bearer {API_KEY}", running.out)
        token = running.wait_for(r"#token=(\S+)", running.out)[1]
        running.wait_for("Ctrl-C", running.out)
        assert SECRET not in "\n".join(running.out)
    assert Authenticator(Settings(jwt_secret=SECRET)).verify(token).username == "dev"


def test_dev_makes_no_token_where_a_public_key_verifies_them(tmp_path):
    """Its tokens are somebody else's to sign: the lines have a place for one."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with Running("dev", "--port", "0", JWT_PUBLIC_KEY=str(tmp_path / "key.pem")) as running:
        running.wait_for(r"/console$", running.out)
        running.wait_for(r"token=TOKEN'", running.out)


# token.


def made(*args: str, **variables: str):
    """The identity that a server reads from the printed token."""
    done = roomcast("token", *args, JWT_SECRET=SECRET, **variables)
    assert done.returncode == 0, done.stderr
    return Authenticator(Settings.from_env({"JWT_SECRET": SECRET, **variables})).verify(done.stdout.strip())


def test_a_token_says_what_was_asked():
    """The id, the name, the rooms and further claims are in it, of the types that a server expects."""
    identity = made(
        *shlex.split("--user-id 1 --username alice --room channel:* --room task:7 --claim team=red --claim n=2")
    )
    assert (identity.user_id, identity.username) == (1, "alice")
    assert identity.rooms == ("channel:*", "task:7")
    assert identity.claims == {"team": "red", "n": 2}


def test_a_token_says_when_it_was_made():
    """Without that it would be taken for older than any revocation of its user's tokens; a claim of one's own wins."""
    begun = int(time.time())
    issued = made("--user-id", "1").issued
    assert issued is not None
    assert begun <= issued <= time.time()
    assert made("--user-id", "1", "--claim", "iat=5").issued == 5


def test_an_id_that_is_no_plain_number_stays_a_text():
    """Ids with letters, or with zeros in front, are not changed."""
    assert made("--user-id", "alice-1").user_id == "alice-1"
    assert made("--user-id", "007").user_id == "007"


def test_a_token_is_for_the_audience_and_issuer_of_the_settings():
    """What JWT_AUDIENCE and JWT_ISSUER ask for is put in."""
    assert made("--user-id", "1", JWT_AUDIENCE="chat", JWT_ISSUER="me").user_id == 1


@pytest.mark.parametrize(
    ("args", "variables", "words"),
    [
        ([], {}, "JWT_SECRET must be set"),
        ([], {"JWT_SECRET": "short"}, "JWT_SECRET is 5 bytes long"),
    ],
)
def test_no_token_without_a_good_secret(args, variables, words):
    """The sentence names the variable."""
    assert words in refusal("token", "--user-id", "1", *args, **variables)


def test_a_token_that_no_server_would_take_is_not_printed():
    """A user id that cannot name a room is told so at once."""
    assert "user" in refusal("token", "--user-id", "a b", status=1, JWT_SECRET=SECRET)


@pytest.mark.parametrize("claim", ["exp=1", "rooms=[]", "novalue", "=x"])
def test_claims_with_an_option_of_their_own_are_refused(claim):
    """--claim adds, it does not overwrite."""
    done = roomcast("token", "--user-id", "1", "--claim", claim, JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert "--claim" in done.stderr
    assert done.stdout == ""


# publish and listen.


def test_what_is_published_is_listened_to(server):
    """A line has time, room, type, sender and data; the id that publish prints is the event's."""
    with listen(server, "project:1") as plain, listen(server, "project:1", "--raw") as raw:
        done = publish(server, "task.created", "project:1", HELLO, "--sender", "me")
        assert done.returncode == 0, done.stderr
        line = plain.wait_for("task.created", plain.out)[0] and next(one for one in plain.out if "task.created" in one)
        assert re.fullmatch(r"\S+Z project:1 task.created me \{.*\"title\":\"From a shell\".*\}", line)
        raw.wait_for("task.created", raw.out)
        event = json.loads(next(one for one in raw.out if "task.created" in one))
    assert event["id"] == done.stdout.strip()


def test_listening_can_begin_after_an_event(server):
    """With --since what came after that event is printed first."""
    first = publish(server, "task.deleted", "project:2", '{"task_id": 1}').stdout.strip()
    publish(server, "task.deleted", "project:2", '{"task_id": 2}')
    with listen(server, "project:2", "--since", first) as listener:
        listener.wait_for("task.deleted", listener.out)
        told = [line for line in listener.out if "task.deleted" in line]
    assert len(told) == 1
    assert '"task_id":2' in told[0]


def test_data_and_whole_events_can_come_from_standard_input(server):
    """- is data, a list of data, or with nothing else whole events."""
    assert len(publish(server, "task.deleted", "task:1", "-", stdin='{"task_id": 1}').stdout.split()) == 1
    two = publish(server, "task.deleted", "task:1", "-", stdin='[{"task_id": 1}, {"task_id": 2}]')
    assert len(two.stdout.split()) == 2
    event = {"type": "task.deleted", "room": "task:1", "data": {"task_id": 3}}
    assert len(publish(server, "-", stdin=json.dumps([event, event])).stdout.split()) == 2


def test_a_repeated_key_publishes_once(server):
    """The second time the first id is printed."""
    args = ("task.deleted", "task:2", '{"task_id": 1}', "--idempotency-key", "once")
    assert publish(server, *args).stdout == publish(server, *args).stdout != ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("no.such", "project:1", "{}"), "no.such"),
        (("task.created", "project:1", "{}"), "title"),
        (("task.created", "nonsense", HELLO), "nonsense"),
        (("task.created", "project:1", "{"), "not JSON"),
    ],
)
def test_what_cannot_be_published_is_said_in_words(server, args, words):
    """The server's sentence is printed, and the status is 1."""
    done = publish(server, *args)
    assert done.returncode == 1
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_each_bad_event_of_several_is_named(server):
    """With its place, its field and what is wrong; nothing is published then."""
    events = [{"type": "task.deleted", "room": "task:9", "data": data} for data in ({"task_id": 1}, {}, {"id": 2})]
    with listen(server, "task:9") as listener:
        done = publish(server, "-", stdin=json.dumps(events))
        assert done.returncode == 1
        assert "index 1, data.task_id: " in done.stderr
        assert "index 2, data.id: " in done.stderr
        assert publish(server, "-", stdin=json.dumps(events[0])).returncode == 0
        listener.wait_for("task.deleted", listener.out)
        assert sum("task.deleted" in line for line in listener.out) == 1


def test_publishing_needs_the_key(server):
    """A missing key is asked for, a wrong one is told from a good one, and neither is printed."""
    assert "API_KEY" in refusal("publish", "task.deleted", "task:1", "{}")
    done = roomcast("publish", "task.deleted", "task:1", HELLO, "--url", server.url, API_KEY="not-the-servers-key")
    assert done.returncode == 1
    assert "not-the-servers-key" not in done.stderr


def test_nothing_listens():
    """Both ends say that there is no server, and give up."""
    url = "http://127.0.0.1:1"
    assert "127.0.0.1:1 cannot be reached: connection refused" in refusal(
        "publish", "task.deleted", "task:1", "{}", "--url", url, status=1, API_KEY=API_KEY
    )
    sentence = refusal("listen", "task:1", "--url", url, status=1, JWT_SECRET=SECRET)
    assert sentence == "127.0.0.1:1 cannot be reached: connection refused."


def test_a_listener_says_that_its_token_is_wrong(server):
    """4401 ends it, with what to do; the token is not repeated."""
    sentence = refusal("listen", "task:1", "--url", server.ws, "--token", "a.wrong.token", status=1)
    assert "4401" in sentence
    assert "a.wrong.token" not in sentence


def test_a_listener_says_that_a_room_is_closed_to_it(server):
    """4403 ends it."""
    token = roomcast("token", "--user-id", "1", "--room", "channel:1", JWT_SECRET=SECRET).stdout.strip()
    done = roomcast("listen", "channel:2", "--url", server.ws, ROOMCAST_TOKEN=token)
    assert done.returncode == 1
    assert "channel:2" in done.stderr
    assert "4403" in done.stderr


def test_a_listener_hears_its_user_and_joins_no_users_room(server):
    """Nobody joins a user's room; the sentence says how to hear it, and that works."""
    done = roomcast("listen", "task:1", "user:7", "--url", server.ws, JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert 'roomcast listen --token "$(roomcast token --user-id 7)"' in done.stderr
    token = roomcast("token", "--user-id", "7", JWT_SECRET=SECRET).stdout.strip()
    with Process("listen", "--token", token, "--url", server.ws) as listener:
        listener.wait_for("Listening to what is sent to user 7", listener.err)
        assert publish(server, "notification.new", "user:7", '{"title": "Hello", "message": "You"}').returncode == 0
        listener.wait_for(r"^\S+ - notification\.new - ", listener.out)


def test_a_listener_needs_a_token():
    """The sentence names all ways to give one."""
    sentence = refusal("listen", "task:1")
    assert all(word in sentence for word in ("--token", "ROOMCAST_TOKEN", "JWT_SECRET"))


def test_a_listener_survives_a_restart_and_says_what_that_means():
    """It comes back by itself; the history of the embedded broker is gone, so events may have been missed."""
    with Running() as first:
        port = first.url.rpartition(":")[2]
        listener = listen(first, "project:1")
        assert first.stop() == 0
    with listener, Running("serve", "--port", port) as second:
        listener.wait_for("Disconnected .1012 Service Restart", listener.err)
        listener.wait_for("project:1 again; events may have been missed", listener.err)
        assert publish(second, "task.created", "project:1", HELLO).returncode == 0
        listener.wait_for("task.created", listener.out)


# plugins and doctor.


def test_plugins_are_shown_with_what_they_own():
    """For eyes and as JSON: package and version, entry point, commands, events, room types, routes."""
    text = roomcast("plugins").stdout
    assert "send_message" in text
    shown = {plugin["plugin"]: plugin for plugin in json.loads(roomcast("plugins", "--json").stdout)}
    chat = shown["chat"]
    assert chat["package"] == f"roomcast {version('roomcast')}"
    assert chat["entry_point"] == "chat"
    assert "send_message" in chat["commands"]
    assert "message" in chat["events"]
    assert chat["room_types"] == ["channel"]
    assert chat["routes"] == []


def test_a_good_deployment_passes(server):
    """Nothing fails, of the environment or of the running server."""
    done = roomcast("doctor", "--url", server.url, JWT_SECRET=SECRET, API_KEY=API_KEY)
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert re.search("^OK .*opens and greets", done.stdout, re.MULTILINE)


def test_the_doctor_names_every_bad_setting():
    """One is not hidden by another, and a name that is nearly a setting is pointed out."""
    bad = {"JWT_SECRET": "short", "DRAIN_SECONDS": "-1", "LOG_FORMAT": "xml", "WS_MESAGE_RATE": "5"}
    done = roomcast("doctor", "--port", "0", **bad)
    assert done.returncode == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 3
    assert all(any(name in line for line in failures) for name in ("JWT_SECRET", "DRAIN_SECONDS", "LOG_FORMAT"))
    assert re.search("^WARN .*WS_MESAGE_RATE.*WS_MESSAGE_RATE", done.stdout, re.MULTILINE)
    assert "short" not in done.stdout


def test_the_doctor_finds_a_port_in_use_and_a_server_with_another_secret(server):
    """Both are failures, and the sentences say which."""
    port = server.url.rpartition(":")[2]
    done = roomcast("doctor", "--port", port, JWT_SECRET=SECRET)
    assert done.returncode == 1
    assert f"FAIL  Port {port} on 127.0.0.1 is in use" in done.stdout
    done = roomcast("doctor", "--url", server.url, JWT_SECRET=SECRET[::-1])
    assert done.returncode == 1
    assert re.search("^FAIL .*does not accept a token made with this JWT_SECRET", done.stdout, re.MULTILINE)
