"""Tests of ``gateway.sessions``: the beginning and the end of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_tools import frame_types, path_with_since
from serving import Serve, connect, refused, token_for

from roomcast.broker.memory import MemoryBroker
from roomcast.errors import Unavailable
from roomcast.web.server import Server


async def test_a_connection_is_closed_when_its_token_expires(serve: Serve) -> None:
    """At exp the connection is closed with 4401, and not before; others stay open."""
    server = await serve(ws_heartbeat_interval=0.2)
    async with connect(server, token=token_for(expires_in=0.4)) as alice, connect(server, 2, "bob") as bob:
        assert frame_types(await alice.settled()) == []
        assert await alice.closed() == (4401, "Authentication Failed")
        assert await bob.settled() == []


async def notify(server: Server, number: int, user_id: int = 1) -> str:
    """Publish a notification; return its id."""
    data = {"title": str(number), "message": ""}
    return await server.gateway.publishing.publish("notification.new", f"user:{user_id}", data, None, None)


async def test_missed_notifications_follow_a_reconnect(serve: Serve) -> None:
    """With ``since``, connected has recovered and last_id, and the missed events follow in order."""
    server = await serve()
    async with connect(server) as alice:
        await notify(server, 0)
        seen = (await alice.recv())["id"]
    ids = [await notify(server, n) for n in (1, 2)]
    await notify(server, 9, user_id=2)
    async with connect(server, path=path_with_since(seen)) as alice:
        data = alice.welcome["data"]
        assert list(data) == ["message", "user_id", "username", "limits", "server", "recovered", "last_id"]
        assert (data["recovered"], data["last_id"]) == (True, ids[-1])
        missed = await alice.settled()
        assert [frame["id"] for frame in missed] == ids
        assert all(set(frame) == {"type", "data", "timestamp", "id"} for frame in missed)
        await notify(server, 3)
        assert [frame["data"]["title"] for frame in await alice.settled()] == ["3"]
    assert not server.gateway.sessions._missed


async def test_an_unknown_since_is_not_recovered(serve: Serve) -> None:
    """An id that is not stored gets ``recovered`` false, and a last_id to continue from."""
    server = await serve()
    for id in ("", "nonsense", "a-1", "%00%0d%0a", "9" * 3000):
        async with connect(server, path=path_with_since(id)) as alice:
            assert alice.welcome["data"]["recovered"] is False
            assert await alice.settled() == []
    start = alice.welcome["data"]["last_id"]
    await notify(server, 1)
    async with connect(server, path=path_with_since(start)) as alice:
        assert alice.welcome["data"]["recovered"] is True
        assert [frame["data"]["title"] for frame in await alice.settled()] == ["1"]


async def test_reconnects_during_notifications(serve: Serve) -> None:
    """A client that reconnects repeatedly gets each notification once, in order."""
    server = await serve(history_size=10_000)
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await notify(server, number)
            await asyncio.sleep(0)

    async with connect(server, path=path_with_since("")) as alice:
        id = alice.welcome["data"]["last_id"]
    publisher = asyncio.create_task(publish())
    titles: list[int] = []
    for round in range(80):
        async with connect(server, path=path_with_since(id)) as alice:
            assert alice.welcome["data"]["recovered"] is True
            end = int(alice.welcome["data"]["last_id"].rpartition("-")[2]) + round % 5 + 1
            while int(id.rpartition("-")[2]) < end:
                frame = await alice.recv()
                id = frame["id"]
                titles.append(int(frame["data"]["title"]))
            alice.socket.transport.abort()
    stop.set()
    await publisher
    assert titles == list(range(1, len(titles) + 1))


class RevocationDuringAdmission(MemoryBroker):
    """A revocation arrives after the history was read, and a notification while the token is checked again."""

    server: Server
    #: What happens next, in this order.
    rest: tuple[str, ...] = ()

    async def history(self, *args: Any, **options: Any) -> Any:
        history = await super().history(*args, **options)
        if self.rest[:1] == ("revocation",):
            self.rest = self.rest[1:]
            self.server.gateway.revocations.invalidate_checks()
        return history

    async def is_revoked(self, *args: Any, **options: Any) -> bool:
        if self.rest[:1] == ("notification",):
            self.rest = ()
            await notify(self.server, 1)
        return await super().is_revoked(*args, **options)


async def test_a_notification_during_a_revocation_is_not_lost(serve: Serve) -> None:
    """A client that resumes while another token is revoked receives what is published before its welcome."""
    broker = RevocationDuringAdmission()
    broker.server = server = await serve(broker=broker)
    start = (await server.gateway.broker.history("user:1", "")).last_id
    broker.rest = ("revocation", "notification")
    async with connect(server, path=path_with_since(start)) as alice:
        assert alice.welcome["data"]["recovered"] is True
        assert [frame["data"]["title"] for frame in await alice.settled()] == ["1"]
    assert not broker.rest


class NoHistory(MemoryBroker):
    async def history(self, *args: Any, **options: Any) -> Any:
        raise Unavailable("The broker cannot be reached.")


async def test_an_unavailable_history_closes_the_connection(serve: Serve) -> None:
    """The connection is closed with 4500, and its admission is undone."""
    broker = NoHistory()
    server = await serve(broker=broker)
    for _ in range(7):
        assert await refused(server, path_with_since("x")) == (4500, "Internal Server Error")
    assert not broker._leases._leases and not broker._subscribed and not server.gateway.sessions._missed
