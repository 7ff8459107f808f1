"""Tests of the brokers that a test may run on."""

from __future__ import annotations

import textwrap

import pytest

from roomcast.testing import BROKERS, Clock, redis_server, running

pytest_plugins = ("pytester", "roomcast.testing")

ROOM = "channel:1"


@pytest.mark.slow
@pytest.mark.all_brokers
async def test_marked_tests_run_on_each_broker(gateway, connect, roomcast_broker) -> None:
    """The connections go to the nodes in turn, and all see the same events."""
    assert len(gateway.nodes) == (2 if roomcast_broker == "two_nodes" else 1)
    assert (gateway.settings.redis_url is None) == (roomcast_broker == "embedded")
    assert len({node.url for node in gateway.nodes}) == len(gateway.nodes)
    users = [await connect(name, rooms=["*"]) for name in ("alice", "bob")]
    for user in users:
        await user.join(ROOM)
    for node in gateway.nodes:
        await node.service.publish("message", ROOM, {"content": "Hi", "username": "x", "user_id": 1})
        async with node.session.get("/health/ready") as response:
            assert response.status == 200
    for user in users:
        for _ in gateway.nodes:
            await user.next("message")
        await user.nothing("message")
    assert len(await gateway.service.members(ROOM)) == 2


@pytest.mark.slow
@pytest.mark.all_brokers
async def test_nothing_finds_what_another_node_sent(gateway, connect) -> None:
    """Everything that was published or broadcast before, on any node, has arrived: 50 times out of 50."""
    last = len(gateway.nodes) - 1
    alice = await connect("alice", rooms=["*"], node=0)
    bob = await connect("bob", rooms=["*"], node=last)
    for user in (alice, bob):
        await user.join(ROOM)
    for _ in range(50):
        gateway.nodes[last].service.broadcast(
            "typing", ROOM, {"username": "bob", "user_id": "bob", "typing": True}, user_id="bob"
        )
        await bob.command("send_message", {"content": "Hi"}, room=ROOM)
        with pytest.raises(AssertionError, match="no message was expected"):
            await alice.nothing("message")
        alice.events.clear()


@pytest.mark.slow
async def test_servers_on_one_redis_share_nothing(roomcast_redis) -> None:
    """Each has a prefix of its own."""
    options = {"broker": "redis", "redis_url": roomcast_redis}
    async with running(**options) as one, running(**options) as two:
        await one.service.publish("message", ROOM, {"content": "Hi", "username": "x", "user_id": 1})
        assert await two.service.history(ROOM) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"broker": "rabbit"}, "it must be one of 'embedded', 'redis', 'two_nodes'"),
        ({"broker": "redis"}, "needs the setting redis_url"),
        (
            {"broker": "two_nodes", "redis_url": "redis://127.0.0.1:1", "clock": Clock()},
            "the time of a Redis server cannot be controlled",
        ),
    ],
)
async def test_options_that_contradict_each_other(options, problem) -> None:
    """The error says what to do."""
    with pytest.raises(ValueError, match=problem):
        async with running(**options):
            raise AssertionError("it started")


def test_without_the_program_tests_are_skipped(monkeypatch, tmp_path) -> None:
    """The reason names the programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = "neither redis-server nor valkey-server is on the PATH"
    with pytest.raises(pytest.skip.Exception, match=reason), redis_server():
        raise AssertionError("it started")


def test_a_program_that_does_not_start(monkeypatch, tmp_path) -> None:
    """Its output is in the error."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(RuntimeError, match="did not start:\nout of luck"), redis_server():
        raise AssertionError("it started")


TESTS_OF_AN_AUTHOR = """
    import pytest

    @pytest.mark.all_brokers
    async def test_marked(connect):
        await connect("alice")

    @pytest.mark.all_brokers
    async def test_with_a_clock(connect, clock):
        await clock.advance(1)

    @pytest.mark.all_brokers
    def test_without_a_server():
        pass

    async def test_not_marked(connect, roomcast_broker):
        assert roomcast_broker == "embedded"
"""


@pytest.mark.slow
def test_the_marker_in_the_project_of_an_author(pytester) -> None:
    """A marked test runs three times; a test with a clock is skipped on Redis; others run once."""
    pytester.makeconftest('pytest_plugins = ["roomcast.testing"]')
    pytester.makepyfile(textwrap.dedent(TESTS_OF_AN_AUTHOR))
    done = pytester.runpytest_subprocess(
        *("-W", "error", "-rs", "-v", "--strict-markers", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    done.assert_outcomes(passed=6, skipped=2)
    done.stdout.fnmatch_lines([f"*test_marked?{name}?*PASSED*" for name in BROKERS])
    done.stdout.fnmatch_lines(["*the time of a Redis server cannot be controlled*"])
