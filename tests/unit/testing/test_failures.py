"""Tests of the texts of failures: a failed test shows what arrived instead."""

from __future__ import annotations

import textwrap

import pytest

from roomcast.testing import Client

pytest_plugins = ("pytester", "roomcast.testing")

ROOM = "channel:1"


@pytest.fixture
async def alice(connect) -> Client:
    """Connect a user, who joins the room."""
    alice = await connect("alice", rooms=["*"])
    await alice.join(ROOM)
    await alice.next("user_joined")
    return alice


def typing(username: str) -> dict[str, object]:
    """Return the data of an event that is not stored."""
    return {"user_id": username, "username": username, "typing": True}


async def test_next_lists_what_arrived_instead(alice, gateway) -> None:
    """Each event that was received and not taken is a line with its type, room, sender and data."""
    await gateway.service.publish(
        "message", ROOM, {"content": "Hi", "username": "bob", "user_id": 2, "metadata": {}}, sender="bob"
    )
    await alice.nothing("typing")  # live events have no order with others
    gateway.service.broadcast("typing", ROOM, typing("bob"))
    await alice.nothing("no.such")
    with pytest.raises(AssertionError) as failed:
        await alice.next("poll.closed", room=ROOM, timeout=0.05)
    assert str(failed.value) == (
        "no poll.closed in channel:1 arrived within 0.05 s. These arrived instead:\n"
        '  message in channel:1 from bob: {"content":"Hi","username":"bob","user_id":2,"metadata":{}}\n'
        '  typing in channel:1: {"user_id":"bob","username":"bob","typing":true}'
    )


async def test_next_says_that_nothing_arrived(alice) -> None:
    """Without events, the failure says so."""
    with pytest.raises(AssertionError) as failed:
        await alice.next(timeout=0.05)
    assert str(failed.value) == "no event arrived within 0.05 s. Nothing else arrived."


async def test_long_data_and_many_events_are_shortened(alice, gateway) -> None:
    """A failure shows the first 20 events, and 120 characters of the data of each."""
    for _ in range(23):
        await gateway.service.publish(
            "message", ROOM, {"content": "x" * 500, "username": "bob", "user_id": 2, "metadata": {}}
        )
    await alice.nothing("no.such")
    with pytest.raises(AssertionError) as failed:
        await alice.next("poll.closed", timeout=0.05)
    _, *lines, last = str(failed.value).splitlines()
    assert last == "  … and 3 more"
    assert len(lines) == 20
    assert lines[0] == f'  message in channel:1: {{"content":"{"x" * 108}…'


async def test_nothing_shows_what_arrived(alice, gateway) -> None:
    """The failure of ``nothing`` has the events that were not expected, and no others."""
    await gateway.service.publish("message", ROOM, {"content": "Hi", "username": "bob", "user_id": 2, "metadata": {}})
    await alice.nothing("typing")  # live events have no order with others
    gateway.service.broadcast("typing", ROOM, typing("bob"))
    with pytest.raises(AssertionError) as failed:
        await alice.nothing("message")
    assert str(failed.value) == (
        "no message was expected, but there is:\n"
        '  message in channel:1: {"content":"Hi","username":"bob","user_id":2,"metadata":{}}'
    )
    with pytest.raises(AssertionError, match=r"no event in channel:1 was expected, but there is:\n  message .*\n  typ"):
        await alice.nothing(room=ROOM)


async def test_other_data_is_shown_as_a_difference(alice, gateway) -> None:
    """``next(data=…)`` returns an event with this data, and shows the difference of another one."""
    for content in ("Hi", "Bye"):
        await gateway.service.publish(
            "message", ROOM, {"content": content, "username": "bob", "user_id": 2, "metadata": {}}
        )
    event = await alice.next("message", data={"content": "Hi", "username": "bob", "user_id": 2, "metadata": {}})
    assert event["room"] == ROOM
    with pytest.raises(AssertionError) as failed:
        await alice.next("message", data={"content": "Hi", "username": "bob", "user_id": 2, "metadata": {}})
    lines = str(failed.value).splitlines()
    assert lines[:2] == [
        "the data of message in channel:1 is not the expected data (- expected, + arrived):",
        "- {'content': 'Hi', 'metadata': {}, 'user_id': 2, 'username': 'bob'}",
    ]
    assert "+ {'content': 'Bye', 'metadata': {}, 'user_id': 2, 'username': 'bob'}" in lines
    await alice.nothing("message")


async def test_closed_says_that_the_connection_is_open(alice) -> None:
    """``closed`` names the time that it waited."""
    with pytest.raises(AssertionError, match=r"^the connection was not closed within 0\.05 s$"):
        await alice.closed(timeout=0.05)


# What pytest prints. A test in a file of its own, because the failure is of the whole run.

FAILING_TEST = """
    import pytest
    from marshmallow import Schema, fields
    from roomcast import Plugin

    pytest_plugins = ["roomcast.testing"]
    polls = Plugin("polls")

    class Vote(Schema):
        option = fields.Integer(required=True)

    @polls.command("polls.vote", Vote)
    async def vote(ctx, data):
        pass

    @pytest.fixture
    def roomcast_plugins():
        return PLUGINS

    async def test_it(connect):
        alice = await connect("alice", rooms=["channel:*"])
        await alice.join("channel:1")
        LINE
"""


def output_of(pytester, line: str = "pass", plugins: str = "[polls]") -> str:
    """Return what pytest prints for a test that ends with ``line``."""
    pytester.makepyfile(textwrap.dedent(FAILING_TEST).replace("LINE", line).replace("PLUGINS", plugins))
    done = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    )
    assert done.ret == 1
    return done.stdout.str()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('await alice.next("polls.closed", timeout=0.05)', "no polls.closed arrived within 0.05 s"),
        ('await alice.nothing("user_joined")', "no user_joined was expected"),
        ('await alice.command("polls.vote", {"options": 1}, room="channel:1")', "code: invalid_data"),
        ("await alice.closed(timeout=0.05)", "the connection was not closed"),
    ],
)
def test_a_failure_shows_the_line_of_the_test(pytester, line, expected) -> None:
    """The code of ``roomcast.testing`` is not in the traceback."""
    output = output_of(pytester, line)
    assert f">       {line}" in output
    assert expected in output
    assert "client.py" not in output


@pytest.mark.slow
def test_a_refusal_shows_its_fields(pytester) -> None:
    """The code and each problem of the data follow the sentence."""
    output = output_of(pytester, 'await alice.command("polls.vote", {"options": 1}, room="channel:1")')
    assert "E         option: ['Missing data for required field.']" in output
    assert "E         options: ['Unknown field.']" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ("polls", "the plugins of a test must be a list, such as [polls], not Plugin('polls')."),
        ('["polls"]', "'polls' in the plugins of a test is a str, not a roomcast.Plugin; give the object itself"),
        ('[polls, Plugin("polls")]', "the plugin name 'polls' is declared twice"),
    ],
)
def test_wrong_plugins_of_a_test(pytester, plugins, expected) -> None:
    """The failure is a sentence without a traceback."""
    output = output_of(pytester, plugins=plugins)
    assert f"the server did not start: {expected}" in output
    assert "fixtures.py" not in output
