"""``roomcast publish``: events reach the members of a room, and refused events are explained."""

import json
import re

import pytest
from shell import API_KEY, SECRET, TASK, Running, listening, publish, refusal, roomcast


def test_a_published_event_is_received(server):
    """``listen`` prints time, room, type, sender and data; ``publish`` prints the id of the event."""
    with listening(server, "project:1") as plain, listening(server, "project:1", "--raw") as raw:
        done = publish(server, "task.created", "project:1", TASK, "--sender", "me")
        assert done.returncode == 0, done.stderr
        line = plain.wait_for("task.created", plain.out)[0] and next(one for one in plain.out if "task.created" in one)
        assert re.fullmatch(r"\S+Z project:1 task.created me \{.*\"title\":\"From a shell\".*\}", line)
        raw.wait_for("task.created", raw.out)
        event = json.loads(next(one for one in raw.out if "task.created" in one))
    assert event["id"] == done.stdout.strip()


def test_an_event_that_is_not_stored(server):
    """Its id is printed as a dash, also among others."""
    data = {"user_id": 1, "username": "bot", "typing": True}
    with listening(server, "channel:1") as listener:
        assert publish(server, "typing", "channel:1", json.dumps(data)).stdout == "-\n"
        listener.wait_for("typing", listener.out)
    message = {"content": "Hi", "user_id": 1, "username": "bot"}
    both = [{"type": "typing", "room": "channel:1", "data": data}]
    both.append({"type": "message", "room": "channel:1", "data": message})
    dash, id = publish(server, "-", stdin=json.dumps(both)).stdout.split()
    assert dash == "-"
    assert re.fullmatch(r"\w+-\d+", id)


def test_data_and_complete_events_can_come_from_standard_input(server):
    """Standard input has data, a list of data, or complete events."""
    assert len(publish(server, "task.deleted", "task:1", "-", stdin='{"task_id": 1}').stdout.split()) == 1
    two = publish(server, "task.deleted", "task:1", "-", stdin='[{"task_id": 1}, {"task_id": 2}]')
    assert len(two.stdout.split()) == 2
    event = {"type": "task.deleted", "room": "task:1", "data": {"task_id": 3}}
    assert len(publish(server, "-", stdin=json.dumps([event, event])).stdout.split()) == 2


def test_the_first_of_several_keys_is_used(server, tmp_path):
    """The environment of a server may have several API keys, or name a file with them."""
    (tmp_path / "keys").write_text(f"{API_KEY}\nold-key\n")
    for variables in ({"API_KEY": f"{API_KEY},old-key"}, {"API_KEY_FILE": str(tmp_path / "keys")}):
        done = roomcast("publish", "task.deleted", "task:1", '{"task_id": 1}', "--url", server.url, **variables)
        assert done.returncode == 0, done.stderr


def test_a_repeated_key_publishes_once(server):
    """The second command prints the id of the first event."""
    args = ("task.deleted", "task:2", '{"task_id": 1}', "--idempotency-key", "once")
    assert publish(server, *args).stdout == publish(server, *args).stdout != ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("no.such", "project:1", "{}"), "no.such"),
        (("task.created", "project:1", "{}"), "title"),
        (("task.created", "nonsense", TASK), "nonsense"),
    ],
)
def test_a_refused_event_is_explained(server, args, words):
    """The command prints the server's sentence, and the status is 1."""
    done = publish(server, *args)
    assert done.returncode == 1
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (("task.created", "project:1", "{"), ""),
        (("task.created", "project:1", "-"), "{"),
        (("task.created", "project:1", "-"), ""),
        (("-",), "["),
        (("-",), ""),
    ],
)
def test_data_that_is_not_json_is_a_wrong_option(args, stdin):
    """The status is 2, as for other wrong arguments, and no server is asked: there is none at this address."""
    done = roomcast("publish", *args, "--url", "http://127.0.0.1:1", stdin=stdin, API_KEY=API_KEY)
    assert (done.returncode, done.stdout) == (2, "")
    assert "The data is not JSON" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_wrong_event_of_several_is_named(server):
    """Each wrong event has a line with its index, its field and the reason. None of the events is published."""
    events = [{"type": "task.deleted", "room": "task:9", "data": data} for data in ({"task_id": 1}, {}, {"id": 2})]
    with listening(server, "task:9") as listener:
        done = publish(server, "-", stdin=json.dumps(events))
        assert done.returncode == 1
        assert "index 1, data.task_id: " in done.stderr
        assert "index 2, data.id: " in done.stderr
        assert publish(server, "-", stdin=json.dumps(events[0])).returncode == 0
        listener.wait_for("task.deleted", listener.out)
        assert sum("task.deleted" in line for line in listener.out) == 1


def test_publishing_needs_the_key(server):
    """A missing key and a wrong key are refused, and a wrong key is not printed."""
    assert "API_KEY" in refusal("publish", "task.deleted", "task:1", "{}")
    done = roomcast("publish", "task.deleted", "task:1", TASK, "--url", server.url, API_KEY="not-the-servers-key")
    assert done.returncode == 4
    assert "not-the-servers-key" not in done.stderr


def test_a_key_without_the_scope(tmp_path):
    """The command shows the sentence of the server, which names the scope or the rooms. Another key publishes."""
    reads, publishes = "key-that-reads-12345", "key-that-publishes-1"
    named = {
        "reads": {"key": reads, "scopes": ["read"]},
        "publishes": {"key": publishes, "scopes": ["publish"], "rooms": ["task:1"]},
    }
    with Running(API_KEYS=json.dumps(named)) as server:

        def attempt(room: str, key: str) -> str:
            done = roomcast("publish", "task.created", room, TASK, "--url", server.url, API_KEY=key)
            assert key not in done.stderr
            return done.stderr if done.returncode else ""

        assert "needs a key with the scope publish; the key reads has read." in attempt("task:1", reads)
        assert "is for task:2; the key publishes is limited to task:1." in attempt("task:2", publishes)
        assert attempt("task:1", publishes) == ""


def test_an_unreachable_server_is_one_sentence():
    """``publish`` and ``listen`` report the address and the reason, and end with status 3."""
    url = "http://127.0.0.1:1"
    assert "127.0.0.1:1 cannot be reached: connection refused" in refusal(
        "publish", "task.deleted", "task:1", "{}", "--url", url, status=3, API_KEY=API_KEY
    )
    sentence = refusal("listen", "task:1", "--url", url, status=3, JWT_SECRET=SECRET)
    assert sentence == "127.0.0.1:1 cannot be reached: connection refused."
