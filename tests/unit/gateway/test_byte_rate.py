"""Tests of ``gateway.rate_limit.ByteRate``: what one user sends and publishes, on all its connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from gateway_tools import ROOM
from sample_commands import Anything
from serving import Serve, User, connect, token_for

from roomcast import Context, Plugin
from roomcast.gateway.rate_limit import (
    BYTE_BURST_SECONDS,
    BYTE_EXCESS_SECONDS,
    FRAME_COST,
    TOKEN_COST,
    ByteRate,
    Verdict,
)

RATE, LARGEST = 100_000, 10_000
#: For tests with a server: at this rate a bucket drains by a few KB while a slow machine runs the test.
LOW_RATE = 10_000
#: The most that fits into the bucket of a user before its connections are closed, in bytes.
FULL = (BYTE_BURST_SECONDS + BYTE_EXCESS_SECONDS) * RATE + 2 * LARGEST


def new_client(rate: ByteRate, user_id: int | str = 1) -> Any:
    """Return the state of a new connection."""
    return SimpleNamespace(identity=SimpleNamespace(user_id=user_id), bytes_left=rate.initial)


def send(rate: ByteRate, client: Any, size: int, now: float = 0.0) -> Verdict:
    """Count a frame that costs ``size`` bytes, as ``Commands`` does."""
    client.bytes_left -= size
    return Verdict.ALLOW if client.bytes_left >= 0 else rate.take(client, now)


def send_until(rate: ByteRate, client: Any, verdict: Verdict, size: int, now: float = 0.0) -> int:
    """Send frames of ``size`` bytes until one gets ``verdict``; return the bytes before that."""
    sent = 0
    while send(rate, client, size, now) is not verdict:
        sent += size
    return sent


def test_a_burst_then_refusals_then_the_end() -> None:
    """A user may send the bytes of a second at once. More are refused, and 4 s more close the connection."""
    rate = ByteRate(RATE, LARGEST)
    client = new_client(rate)
    burst = send_until(rate, client, Verdict.REFUSE, 1000)
    assert RATE - 2 * RATE // 64 <= burst <= RATE + 2000
    assert burst + send_until(rate, client, Verdict.CLOSE, 1000) == pytest.approx(FULL, abs=3000)


def test_the_rate_can_be_sustained() -> None:
    """A user who sends just below the rate is never refused, and one above it is limited to it."""
    rate = ByteRate(RATE, LARGEST)
    steady, fast = new_client(rate, "steady"), new_client(rate, "fast")
    allowed = 0
    for n in range(3000):
        now = n / 100
        assert send(rate, steady, 990, now) is Verdict.ALLOW
        allowed += 1100 * (send(rate, fast, 1100, now) is Verdict.ALLOW)
    assert allowed < 30 * RATE + 2 * RATE


def test_all_connections_of_a_user_share_the_rate() -> None:
    """It does not matter how many connections a user has, or if they are new. Other users are not affected."""
    rate = ByteRate(RATE, LARGEST)
    sent = 0
    for _ in range(5):
        sent += send_until(rate, new_client(rate), Verdict.REFUSE, 1000)
    assert sent <= RATE + 5 * (2000 + RATE // 64)
    assert send(rate, new_client(rate, 2), 1000) is Verdict.ALLOW


def test_reconnecting_does_not_help() -> None:
    """A user who was closed is closed again with the next large frame, until the bucket has drained."""
    rate = ByteRate(RATE, LARGEST)
    send_until(rate, new_client(rate), Verdict.CLOSE, 1000)
    for _ in range(100):
        assert send(rate, new_client(rate), 1000) is Verdict.CLOSE
    assert send(rate, new_client(rate), 1000, now=1.0) is Verdict.REFUSE
    assert send(rate, new_client(rate), 1000, now=FULL / RATE) is Verdict.ALLOW


@pytest.mark.parametrize("size", [LARGEST, 10 * RATE])
def test_a_message_of_the_largest_size_is_allowed(size: int) -> None:
    """Even if it is larger than what the rate allows in a burst; the next one has to wait, and closes nothing."""
    rate = ByteRate(RATE, size)
    client = new_client(rate)
    assert send(rate, client, size) is Verdict.ALLOW
    assert rate.take_for_event(client, 0.0), "its event is as large"
    assert send_until(rate, client, Verdict.REFUSE, size) < RATE + size
    assert send(rate, client, size, now=2 * BYTE_BURST_SECONDS + 3 * size / RATE) is Verdict.ALLOW


def test_events_cause_refusals_but_no_end() -> None:
    """The events of a command can make its user wait for less than a burst, however many there are."""
    rate = ByteRate(RATE, LARGEST)
    client = new_client(rate)
    client.bytes_left -= 100 * RATE
    assert rate.take_for_event(client, 0.0)
    assert not rate.take_for_event(client, 0.0)
    assert send(rate, client, 1000) is Verdict.REFUSE
    assert send(rate, client, 1000, now=1.0) is Verdict.ALLOW


def test_idle_users_have_no_bucket() -> None:
    """Nothing is stored for a user who only joined a room, and nothing is left of others some seconds later."""
    rate = ByteRate(RATE, LARGEST)
    now = 1000.0
    rate.forget_empty(now)
    for user_id in range(100):
        client = new_client(rate, user_id)
        assert send(rate, client, 80 + FRAME_COST, now) is Verdict.ALLOW
    assert len(rate) == 0
    for user_id in range(100):
        send_until(rate, new_client(rate, user_id), Verdict.CLOSE, 1000, now)
    assert len(rate) == 100
    while len(rate):
        now += 1.0
        before = len(rate)
        if before and now < 1000 + FULL / RATE:
            assert send(rate, new_client(rate, 7), 1000, now) is not Verdict.ALLOW or now >= 1000 + FULL / RATE - 1
        rate.forget_empty(now)
        assert now < 1000 + 5 * FULL / RATE


# With a server.


def padded(size: int) -> dict[str, Any]:
    """Return the data of a message with ``size`` bytes of metadata."""
    return {"content": "x", "metadata": {"a": "x" * size}}


async def answers_to(user: User, ids: Iterable[int]) -> list[str]:
    """Return the types of the next answers to the requests ``ids``; of errors, the codes."""
    waiting, answers = set(ids), []
    while waiting:
        frame = await user.recv()
        if (id := frame.get("id")) in waiting:
            waiting.discard(id)
            answers.append(frame["data"]["code"] if frame["type"] == "error" else frame["type"])
    return answers


async def test_large_messages_are_refused_then_closed(serve: Serve) -> None:
    """Each refusal has the id of its message. It also concerns the user's other connections, but not other users."""
    server = await serve(ws_byte_rate=LOW_RATE, ws_message_rate=0)
    async with connect(server) as alice, connect(server) as again, connect(server, 2, "ben") as ben:
        for user in (alice, again, ben):
            await user.join(ROOM)
        for n in range(6):
            await alice.send("send_message", ROOM, padded(40_000), id=n)
        assert sorted(await answers_to(alice, range(6))) == ["rate_limited"] * 5 + ["sent"]
        errors = [frame for frame in alice.frames if frame["type"] == "error"]
        assert [frame["id"] for frame in errors] == [1, 2, 3, 4, 5]
        assert "bytes a second on all connections of this user" in errors[0]["data"]["error"]
        await again.send("send_message", ROOM, padded(5000), id=7)
        assert await answers_to(again, [7]) == ["rate_limited"]
        await ben.send("send_message", ROOM, padded(40_000), id=8)
        assert await answers_to(ben, [8]) == ["sent"]
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(100):
                await alice.send("ping", data=padded(50_000))
        assert await alice.closed() == (4429, "Too Many Messages")


async def test_the_event_of_a_message_counts(serve: Serve) -> None:
    """Small edits of a large message are refused when their events are too many bytes, even those in the queue."""
    server = await serve(ws_byte_rate=RATE, ws_message_rate=0)
    async with connect(server) as alice, connect(server, 2, "ben") as ben:
        await alice.join(ROOM)
        await ben.join(ROOM)
        # The message and its event leave a little of the burst for one edit, however fast it follows.
        await alice.send("send_message", ROOM, padded(45_000), id="first")
        message_id = (await alice.recv_type("sent"))["data"]["event_id"]
        for n in range(64):
            await alice.send("edit_message", ROOM, {"message_id": message_id, "content": str(n)}, id=n)
        answers = await answers_to(alice, range(64))
        assert 1 <= answers.count("sent") <= 20
        assert set(answers) == {"sent", "rate_limited"}
        assert sum(frame["type"] == "message.edited" for frame in await ben.settled()) == answers.count("sent")


async def test_a_loop_of_a_plugin_is_not_interrupted(serve: Serve) -> None:
    """Only the first event of a command can be refused: a command is carried out completely or not at all."""
    plugin = Plugin("loops", "A command that publishes many events")

    @plugin.command("loop", Anything, reply="looped")
    async def loop(ctx: Context, data: dict[str, Any]) -> None:
        for _ in range(30):
            await ctx.publish("message", padded(10_000) | {"username": ctx.username, "user_id": ctx.user_id})

    server = await serve(plugins=[plugin], ws_byte_rate=2 * LOW_RATE, ws_message_rate=0)
    async with connect(server) as alice:
        await alice.join(ROOM)
        for n in range(3):
            await alice.send("loop", ROOM, id=n)
        assert sorted(await answers_to(alice, range(3))) == ["looped", "rate_limited", "rate_limited"]
        assert [frame["id"] for frame in alice.frames if frame["type"] == "looped"] == [0]
        while sum(frame["type"] == "message" for frame in alice.frames) < 30:
            await alice.recv()


async def test_new_tokens_count_more(serve: Serve) -> None:
    """Verifying signatures takes long, so a user can do it only about 30 times a second with the default rate."""
    server = await serve(ws_message_rate=0, ws_byte_rate=TOKEN_COST)
    async with connect(server) as alice:
        for n in range(40):
            await alice.send("refresh_token", data={"token": token_for()}, id=n)
        answers = await answers_to(alice, range(40))
        assert 1 <= answers.count("token_refreshed") <= 10, answers
        assert set(answers) == {"token_refreshed", "rate_limited"}


async def test_no_limit(serve: Serve) -> None:
    """WS_BYTE_RATE=0 means no limit."""
    server = await serve(ws_byte_rate=0, ws_message_rate=0)
    async with connect(server) as alice:
        assert alice.welcome["data"]["limits"]["byte_rate"] == 0
        for n in range(100):
            await alice.send("ping", data={"a": "x" * 100_000}, id=n)
        for n in range(100):
            assert (await alice.recv())["id"] == n
    assert not server.gateway.counters.errors["rate_limited"]
