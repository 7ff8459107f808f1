"""Tests of ``gateway.commands``: a command with an idempotency key is carried out once."""

from __future__ import annotations

from typing import Any

from sample_commands import SampleCommands
from serving import Serve, call, connect
from waiting import wait_until

from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable
from roomcast.idempotency import KEY_BURST

ROOM = "channel:1"


async def test_a_repeated_key_gets_the_first_reply(serve: Serve) -> None:
    """A repeat is not carried out, on the same and on another connection, and gets the first reply."""
    server = await serve()
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "once"}, id=1, key="k")
            first = await alice.recv_type("sent")
            await alice.send("send_message", ROOM, {"content": "once"}, id=2, key="k")
            assert (await alice.recv_type("sent", id=2))["data"] == first["data"]
            alice.socket.transport.abort()
        async with connect(server) as alice:
            await alice.join(ROOM)
            await alice.send("send_message", ROOM, {"content": "once"}, id=3, key="k")
            assert (await alice.recv_type("sent", id=3))["data"] == first["data"]
            await alice.send("send_message", ROOM, {"content": "twice"}, id=4, key="l")
            assert (await alice.recv_type("sent", id=4))["data"] != first["data"]
        await bob.settled()
        assert [frame["data"]["content"] for frame in bob.frames if frame["type"] == "message"] == ["once", "twice"]


async def test_the_keys_of_users_and_backends_are_separate(serve: Serve) -> None:
    """No choice of a key repeats a command of another user, or a request of a backend, whatever the user's id."""
    pairs = [("a", f"send_message/{ROOM}/k"), (f"a/send_message/{ROOM}", "k"), ("http:", "k"), ("http:k", "k")]
    server = await serve()
    async with connect(server, 2, "bob") as bob:
        await bob.join(ROOM)
        event = {"type": "task.created", "room": ROOM, "data": {"task_id": 1, "title": "A"}}
        for key in (f"/send_message/{ROOM}/k", f"k/send_message/{ROOM}/k"):
            assert (await call(server, "POST", "/api/v1/events", event, headers={"Idempotency-Key": key}))[0] == 200
        for user_id, key in pairs:
            async with connect(server, user_id) as user:
                await user.join(ROOM)
                await user.send("send_message", ROOM, {"content": user_id}, id=1, key=key)
                assert (await user.recv_type("sent", id=1))["data"]["event_id"]
        await bob.settled()
        contents = [frame["data"]["content"] for frame in bob.frames if frame["type"] == "message"]
        assert contents == [user_id for user_id, _ in pairs]


async def test_a_key_with_other_data_is_refused(serve: Serve, sample: SampleCommands) -> None:
    """Data is compared without the order of its fields; missing data equals an empty object."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    groups = [
        [{"n": {"a": 1, "b": [2**60]}}, {"n": {"b": [2**60], "a": 1}}],
        [{}, None],
        [{"n": 1}],
        [{"n": True}],
        [{"n": "1"}],
        [{"n": deep}],
    ]
    async with connect(await serve(plugins=[sample.plugin])) as alice:
        for number, same in enumerate(groups):
            for data in same:
                await alice.send("quick", data=data, id=1, key=f"k{number}")
                assert (await alice.recv())["data"] == {"n": (same[0] or {}).get("n")}
            for other in (one for group in groups if group is not same for one in group):
                await alice.send("quick", data=other, id=1, key=f"k{number}")
                assert (await alice.recv())["data"]["code"] == "key_reused"
    assert len(sample.started) == len(groups)


async def test_users_may_have_the_same_key(serve: Serve) -> None:
    """The same key of another user is another key."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        ids = []
        for user in (alice, bob):
            await user.join(ROOM)
            await user.send("send_message", ROOM, {"content": "x"}, id=1, key="k")
            ids.append((await user.recv_type("sent"))["data"]["event_id"])
        assert ids[0] != ids[1]


async def test_the_key_of_a_failed_command_can_be_used_again(serve: Serve, sample: SampleCommands) -> None:
    """A command that was refused or failed may be repeated with its key."""
    async with connect(await serve(plugins=[sample.plugin])) as alice:
        await alice.send("send_message", ROOM, {"content": "x"}, id=1, key="k")
        assert (await alice.recv())["data"]["code"] == "not_joined"
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "x"}, id=2, key="k")
        await alice.recv_type("sent", id=2)
        for n in range(2):
            await alice.send("boom", data={"n": n}, key="b", id=n)
            await alice.recv_type("error", id=n)
        assert sample.started == [0, 1]


async def test_the_key_of_a_running_command_is_in_progress(serve: Serve, sample: SampleCommands) -> None:
    """Another connection gets ``in_progress``, and later the first reply."""
    server = await serve(plugins=[sample.plugin])
    async with connect(server) as alice, connect(server) as tab:
        await alice.send("slow", data={"n": 1}, id=1, key="k")
        await wait_until(lambda: sample.started)
        await tab.send("slow", data={"n": 1}, id=1, key="k")
        assert (await tab.recv())["data"]["code"] == "in_progress"
        sample.gate.set()
        assert (await alice.recv())["data"] == {"n": 1}
        await tab.send("slow", data={"n": 1}, id=2, key="k")
        assert (await tab.recv())["data"] == {"n": 1}
        assert sample.started == [1]


async def test_the_reply_after_a_lost_connection(serve: Serve, sample: SampleCommands) -> None:
    """A command of a lost connection is carried out once, and a repeat gets its reply."""
    server = await serve(plugins=[sample.plugin])
    async with connect(server) as alice:
        await alice.send("slow", data={"n": 1}, key="k")
        await wait_until(lambda: sample.started)
        alice.socket.transport.abort()
    sample.gate.set()
    async with connect(server) as alice:
        await alice.send("slow", data={"n": 1}, id=1, key="k")
        assert (await alice.recv())["data"] == {"n": 1}
        assert sample.started == [1]


class Forgetful(MemoryBroker):
    async def settle(self, key: str, answer: bytes | None) -> None:
        raise Unavailable("The broker cannot be reached.")


async def test_a_reply_that_cannot_be_stored_is_sent(serve: Serve, sample: SampleCommands) -> None:
    """If the broker fails after the command, the client gets the reply or the error of the command."""
    async with connect(await serve(plugins=[sample.plugin], broker=Forgetful())) as alice:
        await alice.send("quick", data={"n": 1}, id=1, key="k")
        assert (await alice.recv())["data"] == {"n": 1}
        await alice.send("boom", data={"n": 2}, id=2, key="l")
        assert (await alice.recv())["data"]["code"] == "internal"
        await alice.send("quick", data={"n": 1}, id=3, key="k")
        assert (await alice.recv())["data"]["code"] == "in_progress"
    assert sample.started == [1, 2]


async def test_a_user_with_too_many_keys_is_refused(serve: Serve, sample: SampleCommands) -> None:
    """Beyond the limit, commands with a key are refused and not carried out. Others, and other users, are served."""
    server = await serve(plugins=[sample.plugin])
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.send("quick", data={"n": 1}, id=1, key="first")
        await alice.recv()
        limit = server.gateway.commands._key_limit
        assert limit.rate == 100
        limit.count(1, int(limit.rate * KEY_BURST) + 1000)
        for key in ("second", "first"):
            await alice.send("quick", data={"n": 1}, id=2, key=key)
            frame = await alice.recv()
            assert (frame["type"], frame["id"], frame["data"]["code"]) == ("error", 2, "rate_limited")
        for user, key in ((alice, {}), (bob, {"key": "second"})):
            await user.send("quick", data={"n": 2}, id=3, **key)
            assert (await user.recv())["data"] == {"n": 2}
        assert len(sample.started) == 3
        limit._used_until.clear()  # as if the user had paused
        for key in ("first", "second"):
            await alice.send("quick", data={"n": 1}, id=4, key=key)
            assert (await alice.recv())["data"] == {"n": 1}
        assert len(sample.started) == 4


async def test_long_answers_count_as_many_keys(serve: Serve, sample: SampleCommands) -> None:
    """The limit of keys counts the bytes of the answers."""
    server = await serve(plugins=[sample.plugin])
    async with connect(server) as alice:
        await alice.send("quick", data={"n": "x" * 51_200}, id=1, key="k")
        await alice.recv()
        limit = server.gateway.commands._key_limit
        keys = limit.rate * (limit._used_until[1] - limit._clock())
        assert 50 < keys <= 102
        await alice.send("quick", data={"n": "x" * 51_200}, id=2, key="k")
        assert (await alice.recv())["data"] == {"n": "x" * 51_200}
        assert limit.rate * (limit._used_until[1] - limit._clock()) <= keys


async def test_keys_are_stored_short(serve: Serve, sample: SampleCommands) -> None:
    """A key has the same length in the broker, whatever its user, room and text."""
    broker = MemoryBroker()
    server = await serve(plugins=[sample.plugin], broker=broker)
    async with connect(server, "\U0001f600" * 255) as alice:
        await alice.join(ROOM)
        await alice.send("send_message", ROOM, {"content": "x"}, id=1, key="\U0001f511" * 128)
        await alice.recv_type("sent", id=1)
    assert [len(key) for key in broker._claims._entries] == [32]
    assert [len(key) for _, key in broker._keys._entries] == [34]
