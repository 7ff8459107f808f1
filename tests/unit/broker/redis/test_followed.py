"""Tests of ``followed`` with many rooms, and with a Cluster of which one server cannot be reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from roomcast.broker.redis import followed as module
from roomcast.broker.redis.followed import FollowedRooms
from roomcast.broker.redis.keys import Keys
from roomcast.broker.redis.scripts import Script
from roomcast.errors import BrokerUnavailable

ROOMS = [f"followed:{number}" for number in range(200)]
#: The room whose server cannot be reached.
BAD = "followed:7"


class FakeRouter:
    """Records the calls of scripts. Each takes an iteration of the event loop. Those for BAD fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Script, str, tuple[Any, ...]]] = []
        self.replies: dict[Script, Any] = {module._CLAIM_PUBLISHED: (0, [])}
        self.running = self.most = 0

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], **options: Any) -> Any:
        """Return the reply for ``script``."""
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if f":{BAD}}}" in keys[0]:
            raise BrokerUnavailable("connection refused")
        self.calls.append((script, keys[0], tuple(args)))
        return self.replies.get(script)

    def keys(self, script: Script) -> set[str]:
        """Return the first keys of the calls of ``script``."""
        return {key for called, key, _ in self.calls if called is script}


class BusyListener:
    """Never finishes."""

    def on_published(self, room: str, id: str, payload: bytes) -> asyncio.Future[None]:
        """See ``Listener``."""
        return asyncio.get_running_loop().create_future()


@pytest.fixture
async def router() -> FakeRouter:
    """Return a router without servers."""
    return FakeRouter()


@pytest.fixture
async def followed(router: FakeRouter) -> FollowedRooms:
    """Return followed rooms, each with an event that is being processed."""
    rooms = FollowedRooms(router, Keys("p"), BusyListener(), 30.0, 1.0, frozenset())  # type: ignore[arg-type]
    await rooms.register_for_events(ROOMS)
    for room in ROOMS:
        rooms.report_event(room, "1-1", b"{}")
    return rooms


async def test_renewals_of_rooms_overlap(router: FakeRouter, followed: FollowedRooms) -> None:
    """One after the other, those of many rooms would take longer than a lease, also that of the node itself."""
    await followed.renew()
    assert router.most == 50


async def test_a_server_that_cannot_be_reached_does_not_end_other_claims(
    router: FakeRouter, followed: FollowedRooms
) -> None:
    """The claims of the other rooms are extended, and events of dead nodes are taken over there."""
    await followed.renew()
    others = {f"{{p:{room}}}" for room in ROOMS} - {f"{{p:{BAD}}}"}
    assert router.keys(module._EXTEND) == {f"{tag}:f" for tag in others}
    assert router.keys(module._CLAIM_PUBLISHED) == {f"{tag}:e" for tag in others}


async def test_a_sweep_goes_on_without_a_server(router: FakeRouter, followed: FollowedRooms) -> None:
    """The other rooms of dead nodes are swept and dropped; that of the server stays for the next sweep."""
    router.replies[module._TAKE] = (42, [BAD.encode(), b"followed:8"])
    followed.sweep(lambda room: asyncio.sleep(0, result=False))
    assert followed._sweeping is not None
    await followed._sweeping
    assert router.calls[-1] == (module._DROP, Keys("p").followed, (42, "followed:8"))


async def test_rooms_without_events_are_forgotten(
    router: FakeRouter, followed: FollowedRooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A room without a new event for a lease is not asked about any more."""
    later = time.monotonic() + 10 + 31
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: later))
    await followed.renew()
    router.calls.clear()
    await followed.renew()
    assert router.keys(module._CLAIM_PUBLISHED) == set()
    assert len(router.keys(module._EXTEND)) == len(ROOMS) - 1
