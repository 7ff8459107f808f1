"""``roomcast rooms``, ``members``, ``kick``, ``online``, ``disconnect`` and ``revoke``, on a running server."""

import json
import re
import time

import pytest
from connected_users import member, receive
from invoking import invoke_on

from roomcast.cli import history


def test_rooms_and_members(server):
    """The tables contain the rooms and the users, with their numbers, also as JSON."""
    with member(server, 7, "alice", "channel:a", "channel:b"), member(server, "auth0|8", "日本", "channel:a"):
        lines = [line.split() for line in invoke_on(server, "rooms").stdout.splitlines()]
        assert lines[0] == ["ROOM", "MEMBERS"]
        assert ["channel:a", "2"] in lines and ["channel:b", "1"] in lines
        listed = json.loads(invoke_on(server, "rooms", "--json").stdout)["rooms"]
        assert {"room": "channel:a", "members": 2} in listed
        assert invoke_on(server, "members", "channel:a").stdout == (
            "USER     NAME   CONNECTIONS\n7        alice            1\nauth0|8  日本             1\n"
        )
        found = json.loads(invoke_on(server, "members", "channel:a", "--json").stdout)
    assert [one["user_id"] for one in found["members"]] == [7, "auth0|8"]


def test_a_room_without_members(server):
    """The table is empty, and a sentence on standard error explains it. JSON has an empty list."""
    done = invoke_on(server, "members", "channel:empty")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "channel:empty has no members.\n")
    assert json.loads(invoke_on(server, "members", "channel:empty", "--json").stdout)["members"] == []


def test_kick(server):
    """The user leaves the room, and others stay."""
    with member(server, 17, "bob", "channel:k") as bob, member(server, 18, "eve", "channel:k"):
        done = invoke_on(server, "kick", "channel:k", "17")
        assert done.stdout == "Removed user 17 from channel:k; connections: 1.\n"
        assert receive(bob, "left_room")["room"] == "channel:k"
        found = json.loads(invoke_on(server, "members", "channel:k", "--json").stdout)
        assert [one["user_id"] for one in found["members"]] == [18]
    assert json.loads(invoke_on(server, "kick", "channel:k", "17", "--json").stdout)["connections"] == 0


def test_online_and_disconnect(server):
    """The status is that of all connections. The exit status is 1 if a user is offline."""
    with member(server, "auth0|9", "eve", "channel:o") as eve:
        done = invoke_on(server, "online", "auth0|9")
        assert done.exit_code == 0
        assert re.search(r"^auth0\|9  online +1  \S+Z  channel:o$", done.stdout, re.MULTILINE)
        both = invoke_on(server, "online", "auth0|9", "4711", "--json")
        assert both.exit_code == 1
        assert [one["online"] for one in json.loads(both.stdout)["users"]] == [True, False]
        assert invoke_on(server, "disconnect", "auth0|9").stdout == "Disconnected user auth0|9; connections: 1.\n"
        with pytest.raises(Exception, match="4410"):
            receive(eve, "never")
    assert invoke_on(server, "online", "auth0|9").exit_code == 1


def test_revoke(server):
    """The connections of revoked tokens are closed, and those of other tokens are not."""
    with member(server, 27, "a", iat=1000) as old, member(server, 27, "a", jti="one", iat=int(time.time())) as one:
        done = invoke_on(server, "revoke", "27", "--before", "2020-01-01T00:00:00Z")
        assert done.stdout == "Revoked the tokens of user 27 that were issued before 2020-01-01T00:00:00Z.\n"
        with pytest.raises(Exception, match="4401"):
            receive(old, "never")
        one.send(json.dumps({"type": "ping"}))
        receive(one, "pong")
        assert invoke_on(server, "revoke", "27", "--jti", "one").stdout == "Revoked the token one of user 27.\n"
        with pytest.raises(Exception, match="4401"):
            receive(one, "never")
    answer = json.loads(invoke_on(server, "revoke", "27", "--json").stdout)
    assert answer["user_id"] == 27 and answer["before"] > 1e9


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("members", "nonsense"), 1, "entity_type:entity_id"),
        (("members", "chanel:1"), 1, "Did you mean 'channel'?"),
        (("kick", "channel:1", "x" * 256), 1, "is not a user id"),
        (("revoke", "1", "--before", "soon"), 2, "2026-11-30T12:00:00Z"),
        (("revoke", "1", "--before", "9999999999"), 1, "not in the future"),
        (("revoke", "1", "--before", "1", "--jti", "a"), 2, "not both"),
        (("online",), 2, "Missing argument"),
        (("history", "channel:1", "--limit", "1001"), 2, "at most 1000"),
        (("history", "channel:1", "--since", "nope-1"), 1, "does not reach back to nope-1"),
    ],
)
def test_a_refused_command_is_explained(server, args, status, words):
    """The status distinguishes a refusal from wrong options, and nothing is printed on standard output."""
    done = invoke_on(server, *args)
    assert (done.exit_code, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_history(server, monkeypatch):
    """The newest events are printed oldest first, or the events after an id, on as many requests as needed."""
    events = [{"type": "task.deleted", "room": "task:h", "data": {"task_id": n}} for n in range(1, 301)]
    ids = invoke_on(server, "publish", "-", stdin=json.dumps(events)).stdout.split()
    two = invoke_on(server, "history", "task:h", "--limit", "2").stdout.splitlines()
    assert [re.fullmatch(r"\S+Z task:h task\.deleted - (\{.*\})", line)[1] for line in two] == [
        '{"task_id":299}',
        '{"task_id":300}',
    ]
    assert len(invoke_on(server, "history", "task:h").stdout.splitlines()) == 50
    kept = [json.loads(line) for line in invoke_on(server, "history", "task:h", "--json").stdout.splitlines()]
    assert [event["id"] for event in kept] == ids[-50:]
    monkeypatch.setattr(history, "MAX_PAGE", 100)
    for more, count in ((), 290), (("--limit", "250"), 250), (("--limit", "3"), 3):
        since = invoke_on(server, "history", "task:h", "--since", ids[9], "--json", *more).stdout.splitlines()
        assert [json.loads(line)["id"] for line in since] == ids[10 : 10 + count]
