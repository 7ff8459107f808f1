"""The channel between a worker and the supervisor: messages arrive whole, and many callers share one question."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest_asyncio
from serving import PATIENCE

from roomcast.workers.ipc import GATHERED, METRICS, READY, Channel, Question, encode

pytest_plugins = ("loops",)
LOOPS = ("uvloop", "asyncio")  # of a worker, and of the supervisor


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a channel."""
    one, other = [await Channel.open(sock) for sock in socket.socketpair()]
    yield one, other
    one.close()
    other.close()


async def received(channel: Channel) -> list[tuple[str, bytes]]:
    """Return all messages until the other end is closed."""
    async with asyncio.timeout(PATIENCE):
        return [message async for message in channel.messages()]


async def test_messages_arrive_whole_and_in_order(ends):
    """Empty bodies, long bodies, and bodies that look like messages arrive unchanged."""
    one, other = ends
    sent = [(READY, b""), (METRICS, b"x" * 1_000_000), (GATHERED, encode(READY) * 3), (READY, b"")]
    for kind, body in sent:
        one.send(kind, body)
    one.close()
    assert await received(other) == sent


async def test_an_incomplete_message_is_dropped():
    """Of a process that was killed while it wrote, only the whole messages arrive."""
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    theirs.sendall(encode(READY) + encode(METRICS, b"all of it")[:-1])
    theirs.close()
    assert await received(channel) == [(READY, b"")]
    channel.close()


async def test_a_closed_end_is_harmless(ends):
    """After the other end or this one is closed, sending does nothing and asking returns nothing."""
    one, other = ends
    other.close()
    assert await received(one) == []
    one.send(READY)
    assert await Question(one, METRICS, 0.01).ask() == b""
    one.close()
    one.send(READY)
    assert await Question(one, METRICS, PATIENCE).ask() == b""


async def test_callers_share_a_question(ends):
    """Five callers cause one message. A caller after the answer causes another one."""
    one, other = ends
    question = Question(one, METRICS, PATIENCE)
    messages = other.messages()
    for body in (b"first", b"second"):
        asking = [asyncio.create_task(question.ask()) for _ in range(5)]
        assert await anext(messages) == (METRICS, b"")
        question.resolve(body)
        assert await asyncio.gather(*asking) == [body] * 5
    one.close()
    assert [message async for message in messages] == []


async def test_an_unanswered_question_is_not_repeated(ends):
    """Later callers get the answer to the first message when it comes."""
    one, other = ends
    question = Question(one, METRICS, 0.01)
    assert [await question.ask() for _ in range(3)] == [b""] * 3
    asking = asyncio.create_task(question.ask())
    await asyncio.sleep(0)
    question.resolve(b"late")
    assert await asking == b"late"
    one.close()
    assert await received(other) == [(METRICS, b"")]


async def test_an_answer_without_a_question_is_dropped(ends):
    """A late answer is not used for the next question."""
    one, _ = ends
    question = Question(one, METRICS, 0.01)
    question.resolve(b"unasked")
    assert await question.ask() == b""
