"""What workers and their parent say to each other arrives whole, and what is asked is asked once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest_asyncio
from serving import PATIENCE

from roomcast.workers.ipc import GATHERED, METRICS, READY, Channel, Question, pack

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")  # a worker's, and its parent's


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a channel."""
    one, other = [await Channel.open(sock) for sock in socket.socketpair()]
    yield one, other
    one.close()
    other.close()


async def heard(channel: Channel) -> list[tuple[str, bytes]]:
    """Every message up to the end."""
    async with asyncio.timeout(PATIENCE):
        return [message async for message in channel.messages()]


async def test_messages_arrive_whole_and_in_order(ends):
    """Empty ones, long ones, and those that look like others."""
    one, other = ends
    sent = [(READY, b""), (METRICS, b"x" * 1_000_000), (GATHERED, pack(READY) * 3), (READY, b"")]
    for word, body in sent:
        one.send(word, body)
    one.close()
    assert await heard(other) == sent


async def test_a_message_that_was_cut_off_is_none():
    """Who was killed in the middle of it has said nothing."""
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    theirs.sendall(pack(READY) + pack(METRICS, b"all of it")[:-1])
    theirs.close()
    assert await heard(channel) == [(READY, b"")]
    channel.close()


async def test_nobody_need_be_there(ends):
    """What is said to one who is gone is said to nobody; asking gives nothing."""
    one, other = ends
    other.close()
    assert await heard(one) == []
    one.send(READY)
    assert await Question(one, METRICS, 0.01).ask() == b""
    one.close()
    one.send(READY)
    assert await Question(one, METRICS, PATIENCE).ask() == b""


async def test_a_question_is_asked_once_for_all(ends):
    """However many want to know it; and again for who comes after the answer."""
    one, other = ends
    question = Question(one, METRICS, PATIENCE)
    messages = other.messages()
    for body in (b"first", b"second"):
        asking = [asyncio.create_task(question.ask()) for _ in range(5)]
        assert await anext(messages) == (METRICS, b"")
        question.answered(body)
        assert await asyncio.gather(*asking) == [body] * 5
    one.close()
    assert [message async for message in messages] == []


async def test_who_does_not_answer_is_not_asked_again(ends):
    """Not before the answer to the first question has come, which is that to the later ones, too."""
    one, other = ends
    question = Question(one, METRICS, 0.01)
    assert [await question.ask() for _ in range(3)] == [b""] * 3
    asking = asyncio.create_task(question.ask())
    await asyncio.sleep(0)
    question.answered(b"late")
    assert await asking == b"late"
    one.close()
    assert await heard(other) == [(METRICS, b"")]


async def test_an_answer_that_nobody_waits_for_is_dropped(ends):
    """It is not the one to the next question."""
    one, _ = ends
    question = Question(one, METRICS, 0.01)
    question.answered(b"unasked")
    assert await question.ask() == b""
