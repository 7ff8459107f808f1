"""Tests of ``auth.room_access``: what ROOM_ACCESS allows, and how many requests the URL receives."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import pytest
from access_server import AccessServer
from aiohttp import web
from serving import SECRET, no_tasks_left
from waiting import wait_until

from roomcast.auth import room_access
from roomcast.auth.identity import Identity
from roomcast.auth.room_access import RoomAccess
from roomcast.errors import Unavailable
from roomcast.settings import Settings

ALICE = Identity(1, "alice", rooms=("channel:*",))
BOB = Identity("bob", "Bob")


@asynccontextmanager
async def room_access_rule(room_access: str, **settings):
    """Run the rule for ``room_access``."""
    rule = RoomAccess(Settings(jwt_secret=SECRET, room_access=room_access, **settings))
    await rule.start()
    try:
        yield rule
    finally:
        await rule.close()


class Gate:
    """Holds the requests to ``server`` until ``open`` is set, then allows them."""

    def __init__(self, server: AccessServer) -> None:
        self.arrived = 0
        self.open = asyncio.Event()
        server.answer = self._answer  # type: ignore[method-assign]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.arrived += 1
        await self.open.wait()
        return web.Response()


async def test_claims() -> None:
    """By default, the token's rooms decide without a request."""
    async with room_access_rule("claims") as rule:
        assert rule.decide(ALICE, "channel:1") is True
        assert rule.decide(ALICE, "task:1") is False
        assert await rule.allows(ALICE, "channel:1")
        assert not await rule.allows(BOB, "channel:1")


async def test_open() -> None:
    """With ``open``, every room is open to everyone."""
    async with room_access_rule("open") as rule:
        assert rule.decide(BOB, "task:1") is True
        assert await rule.allows(BOB, "task:1")


async def test_a_personal_room_cannot_be_joined(access_server: AccessServer) -> None:
    """No mode allows a personal room, the user's own included, and the URL is not asked."""
    for mode in ("claims", "open", access_server.url):
        async with room_access_rule(mode) as rule:
            for room in ("user:1", "user:bob"):
                assert rule.decide(ALICE, room) is False
                assert not await rule.allows(ALICE, room)
    assert access_server.bodies == []


async def test_a_url(access_server: AccessServer) -> None:
    """The URL decides, and claims are ignored."""
    async with room_access_rule(access_server.url) as rule:
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:1") is True
        assert await rule.allows(BOB, "channel:1") is False


# The cache.


async def test_decisions_are_cached(access_server: AccessServer) -> None:
    """Both decisions are cached, and returned without a request."""
    async with room_access_rule(access_server.url) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1") is True
            assert await rule.allows(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:1") is True
        assert rule.decide(BOB, "task:1") is False
        assert rule.decide(ALICE, "task:2") is None
    assert len(access_server.bodies) == 2


async def test_failures_are_not_cached(access_server: AccessServer) -> None:
    """After a failure, the next call asks the URL again. Every caller gets the failure."""
    access_server.always(503)
    async with room_access_rule(access_server.url) as rule:
        results = await asyncio.gather(*(rule.allows(ALICE, "task:1") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert rule.decide(ALICE, "task:1") is None
        assert rule.failed_checks == 1
        access_server.always(200)
        assert await rule.allows(ALICE, "task:1") is True


async def test_decisions_expire(access_server: AccessServer, monkeypatch) -> None:
    """After ROOM_ACCESS_CACHE seconds, the URL is asked again."""
    now = 1000.0
    monkeypatch.setattr(room_access.time, "monotonic", lambda: now)
    async with room_access_rule(access_server.url, room_access_cache=10) as rule:
        assert await rule.allows(ALICE, "task:1")
        now += 9.9
        assert rule.decide(ALICE, "task:1") is True
        now += 0.2
        assert rule.decide(ALICE, "task:1") is None
        assert await rule.allows(ALICE, "task:2")
        assert list(rule._cache) == [(1, "task:2")]


async def test_without_a_cache_every_join_is_a_request(access_server: AccessServer) -> None:
    """ROOM_ACCESS_CACHE=0 asks each time."""
    async with room_access_rule(access_server.url, room_access_cache=0) as rule:
        for _ in range(3):
            assert await rule.allows(ALICE, "task:1")
    assert len(access_server.bodies) == 3


async def test_the_cache_is_bounded(access_server: AccessServer, monkeypatch) -> None:
    """Only the newest decisions are cached."""
    monkeypatch.setattr(room_access, "MAX_CACHED", 3)
    async with room_access_rule(access_server.url) as rule:
        for number in range(5):
            await rule.allows(ALICE, f"task:{number}")
        assert [rule.decide(ALICE, f"task:{number}") for number in range(5)] == [None, None, True, True, True]


# Many callers at once.


async def test_equal_requests_are_shared(access_server: AccessServer) -> None:
    """Callers that need the same decision share one request; others have their own."""
    async with room_access_rule(access_server.url) as rule:
        answers = await asyncio.gather(
            *(rule.allows(ALICE, "task:1") for _ in range(20)), rule.allows(BOB, "task:1"), rule.allows(ALICE, "task:2")
        )
        assert rule.unfinished_checks == 0
    assert answers == [True] * 20 + [False, True]
    assert len(access_server.bodies) == 3


async def test_cancelling_one_caller_does_not_affect_others(access_server: AccessServer) -> None:
    """If one caller is cancelled, the others get the decision."""
    gate = Gate(access_server)
    async with room_access_rule(access_server.url) as rule:
        first = asyncio.create_task(rule.allows(ALICE, "task:1"))
        second = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await wait_until(lambda: gate.arrived)
        first.cancel()
        gate.open.set()
        assert await second is True
        assert first.cancelled()


async def test_the_decision_for_a_caller_that_was_cancelled(access_server: AccessServer) -> None:
    """A request that was sent is completed, so that the decision is cached when the client asks again."""
    gate = Gate(access_server)
    async with room_access_rule(access_server.url) as rule:
        caller = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await wait_until(lambda: gate.arrived)
        caller.cancel()
        gate.open.set()
        await wait_until(lambda: rule.decide(ALICE, "task:1"))
    assert gate.arrived == 1


async def test_the_wait_for_a_slot_does_not_count_against_the_timeout(access_server: AccessServer, monkeypatch) -> None:
    """The URL receives at most MAX_REQUESTS requests at once, and each has ROOM_ACCESS_TIMEOUT for itself."""
    monkeypatch.setattr(room_access, "MAX_REQUESTS", 2)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.4)
        return web.Response()

    access_server.answer = answer
    async with room_access_rule(access_server.url, room_access_timeout=1.5) as rule:
        begun = time.monotonic()
        assert await asyncio.gather(*(rule.allows(ALICE, f"task:{number}") for number in range(10))) == [True] * 10
        assert time.monotonic() - begun > 1.5
    assert access_server.most_at_once == 2


@pytest.mark.slow
async def test_3000_joins_at_once(access_server: AccessServer) -> None:
    """All get in if the URL takes 50 ms, with the default timeout."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.Response()

    access_server.answer = answer
    async with room_access_rule(access_server.url) as rule:
        users = [Identity(id, f"user {id}") for id in range(3000)]
        assert await asyncio.gather(*(rule.allows(user, "channel:1") for user in users)) == [True] * 3000
    assert access_server.most_at_once == room_access.MAX_REQUESTS


async def test_checks_while_the_url_fails(access_server: AccessServer, monkeypatch) -> None:
    """After a failure, a check for which there is no slot fails at once; a failed request keeps its slot longer."""
    monkeypatch.setattr(room_access, "MAX_REQUESTS", 2)
    monkeypatch.setattr(room_access, "FAILURE_PAUSE", 3600)
    access_server.always(503)
    async with room_access_rule(access_server.url) as rule:
        for _ in range(10):
            with pytest.raises(Unavailable):
                await rule.allows(ALICE, "task:1")
        assert len(access_server.bodies) == 2
        assert rule.failed_checks == 10


async def test_checks_after_the_url_failed(access_server: AccessServer, monkeypatch) -> None:
    """With the first answer, checks wait for a slot again."""
    monkeypatch.setattr(room_access, "MAX_REQUESTS", 2)
    monkeypatch.setattr(room_access, "FAILURE_PAUSE", 0.05)
    access_server.always(503)
    async with room_access_rule(access_server.url) as rule:
        users = [Identity(id, f"user {id}") for id in range(20)]
        failed = await asyncio.gather(*(rule.allows(user, "task:1") for user in users), return_exceptions=True)
        assert {type(one) for one in failed} == {Unavailable}
        access_server.always(200)

        async def is_allowed() -> bool:
            with suppress(Unavailable):
                return await rule.allows(ALICE, "task:1")
            return False

        await wait_until(is_allowed)
        assert await asyncio.gather(*(rule.allows(user, "task:2") for user in users)) == [True] * 20


async def test_the_number_of_checks_is_bounded(access_server: AccessServer, monkeypatch, caplog) -> None:
    """With MAX_CHECKS unfinished checks, further ones fail at once. Callers of a check that waits still share it."""
    monkeypatch.setattr(room_access, "MAX_REQUESTS", 2)
    monkeypatch.setattr(room_access, "MAX_CHECKS", 5)
    gate = Gate(access_server)
    async with room_access_rule(access_server.url) as rule:
        callers = [asyncio.create_task(rule.allows(ALICE, f"task:{number}")) for number in range(5)]
        await wait_until(lambda: gate.arrived == 2)
        assert rule.unfinished_checks == 5
        with pytest.raises(Unavailable):
            await rule.allows(ALICE, "task:5")
        assert "5 checks wait for it already" in caplog.text
        callers.append(asyncio.create_task(rule.allows(ALICE, "task:4")))
        gate.open.set()
        assert await asyncio.gather(*callers) == [True] * 6
        assert await rule.allows(ALICE, "task:5")
    assert len(access_server.bodies) == 6


async def test_a_check_without_callers_is_not_sent(access_server: AccessServer, monkeypatch) -> None:
    """If all callers are cancelled before the request is sent, the URL is not asked. A later caller sends a request."""
    monkeypatch.setattr(room_access, "MAX_REQUESTS", 1)
    gate = Gate(access_server)
    async with no_tasks_left(), room_access_rule(access_server.url) as rule:
        first = asyncio.create_task(rule.allows(ALICE, "task:1"))
        await wait_until(lambda: gate.arrived)
        waiting = [asyncio.create_task(rule.allows(ALICE, "task:2")) for _ in range(2)]
        await wait_until(lambda: rule.unfinished_checks == 2)
        for caller in waiting:
            caller.cancel()
        await asyncio.wait(waiting)
        assert rule.unfinished_checks == 1
        later = asyncio.create_task(rule.allows(ALICE, "task:3"))
        gate.open.set()
        assert await first and await later
        assert [body["room"] for body in access_server.bodies] == ["task:1", "task:3"]
        assert await rule.allows(ALICE, "task:2")


async def test_closing(access_server: AccessServer) -> None:
    """Checks that run at shutdown fail, and so do those after it; no task remains."""
    gate = Gate(access_server)
    async with no_tasks_left():
        async with room_access_rule(access_server.url) as rule:
            pending = asyncio.create_task(rule.allows(ALICE, "task:1"))
            await wait_until(lambda: gate.arrived)
        for later in (pending, rule.allows(ALICE, "task:2")):
            with pytest.raises(Unavailable):
                await later
        assert rule.unfinished_checks == 0
        gate.open.set()
        await access_server.stop()
