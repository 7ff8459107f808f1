"""A rule that cannot decide is neither a yes nor a no: the client does not join, stays connected, and may try again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from access_server import AccessServer
from gateway_tools import frame_types, is_empty, publish_numbered
from serving import Serve, answer, connect, token_for
from waiting import wait_until

from roomcast import Context, Plugin, Refused, Unavailable
from roomcast.web.server import Server

pytestmark = pytest.mark.usefixtures("fresh_metrics")

ROOM = "channel:1"
#: Makes the URL in ROOM_ACCESS fail.
Fault = Callable[[AccessServer], Awaitable[None]]


def responds(status: int) -> Fault:
    """Return a fault that answers all requests with ``status``."""

    async def fault(access_server: AccessServer) -> None:
        access_server.always(status)

    fault.__name__ = str(status)
    return fault


async def refused_connections(access_server: AccessServer) -> None:
    """Close the port."""
    await access_server.stop()


async def no_answer(access_server: AccessServer) -> None:
    """Accept requests, and do not respond."""
    access_server.never()


async def reset_connections(access_server: AccessServer) -> None:
    """Accept requests, and reset their connections."""
    access_server.reset()


FAULTS = (refused_connections, no_answer, reset_connections, *map(responds, (302, 401, 404, 429, 500, 503)))


async def repair(access_server: AccessServer) -> None:
    """Let the URL allow everyone."""
    await access_server.stop()
    access_server.always(200)
    await access_server.start()


async def metric(server: Server, check: str) -> float:
    """Return the number of failures of one kind of check."""
    async with answer(server, "GET", "/metrics") as response:
        found = re.search(rf'^roomcast_access_failures_total{{check="{check}"}} (\S+)$', await response.text(), re.M)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("forbidden_join", ["close", "keep"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_url_fails(serve: Serve, access_server: AccessServer, fault: Fault, forbidden_join: str) -> None:
    """The join gets ``unavailable``, the connection stays open, and the client joins when the URL answers again."""
    await fault(access_server)
    server = await serve(room_access=access_server.url, room_access_timeout=0.3, forbidden_join=forbidden_join)
    async with connect(server, 7) as alice:
        await alice.send("join_room", ROOM, id="j")
        error = await alice.recv_type("error")
        assert (error["id"], error["room"], error["data"]["code"]) == ("j", ROOM, "unavailable")
        assert error["data"]["error"] == (
            f"join_room could not be carried out now; try again soon. The access check of {ROOM} failed."
        )
        assert not server.gateway.delivery.rooms and not server.gateway.rooms.subscriptions._joining
        await alice.send("send_message", ROOM, {"content": "x"}, id="s")
        assert (await alice.recv_type("error"))["data"]["code"] == "not_joined"
        await repair(access_server)
        await alice.join(ROOM)
        assert server.gateway.counters.errors["unavailable"] == 1
        assert await metric(server, "url") == 1


async def test_the_url_says_no(serve: Serve, access_server: AccessServer) -> None:
    """Only 403 is a no, which ends the connection with 4403."""
    access_server.always(403)
    server = await serve(room_access=access_server.url)
    async with connect(server, 7) as alice:
        await alice.send("join_room", ROOM)
        assert (await alice.recv_type("error"))["data"]["code"] == "forbidden"
        assert await alice.closed() == (4403, "Forbidden")
    assert await metric(server, "url") == 0


async def test_a_rejoin_while_the_url_fails(serve: Serve, access_server: AccessServer) -> None:
    """A client that returns gets ``unavailable``, and later resumes without a loss."""
    server = await serve(room_access=access_server.url, room_access_cache=0)
    async with connect(server) as alice:
        await alice.join(ROOM)
        last = await publish_numbered(server, 1)
    access_server.always(503)
    await publish_numbered(server, 2)
    async with connect(server) as alice:
        await alice.send("join_room", ROOM, {"since": last})
        assert (await alice.recv_type("error"))["data"]["code"] == "unavailable"
        access_server.always(200)
        assert (await alice.join(ROOM, since=last))["data"]["recovered"] is True
        assert (await alice.recv_type("task.deleted"))["data"] == {"task_id": 2}


async def test_a_member_that_joins_again_while_the_url_fails(serve: Serve, access_server: AccessServer) -> None:
    """It gets ``unavailable`` and stays a member."""
    server = await serve(room_access=access_server.url, room_access_cache=0)
    async with connect(server) as alice:
        await alice.join(ROOM)
        access_server.always(503)
        await alice.send("join_room", ROOM, id=1)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "unavailable"
        await alice.send("send_message", ROOM, {"content": "still here"})
        assert (await alice.recv_type("message"))["data"]["content"] == "still here"


async def test_a_member_that_joins_again_and_is_forbidden(serve: Serve, access_server: AccessServer) -> None:
    """A no also ends the membership: with FORBIDDEN_JOIN=keep the client leaves the room, and stays connected."""
    server = await serve(room_access=access_server.url, room_access_cache=0, forbidden_join="keep")
    async with connect(server) as alice:
        await alice.join(ROOM)
        access_server.always(403)
        await alice.settled()
        await alice.send("join_room", ROOM, id=1)
        left, error = await alice.recv(), await alice.recv()
        assert (left["type"], left["room"], "id" in left) == ("left_room", ROOM, False)
        assert (error["type"], error["data"]["code"], error["id"]) == ("error", "forbidden", 1)
        assert not server.gateway.delivery.rooms
        assert await alice.settled() == []


async def test_a_new_token_while_the_url_fails(serve: Serve, access_server: AccessServer) -> None:
    """The URL is not asked about the new token, so the member stays."""
    server = await serve(room_access=access_server.url, room_access_cache=0)
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.settled()
        await access_server.stop()
        await alice.send("refresh_token", data={"token": token_for()})
        assert frame_types(await alice.settled()) == ["token_refreshed"]


# Rules of plugins.


class Rules:
    """A plugin with a rule that does what the room's id says, until ``repaired`` is set."""

    def __init__(self) -> None:
        self.plugin = Plugin("moody")
        self.repaired = False
        self.plugin.room("moody")(self._rule)

    async def _rule(self, ctx: Context, mood: str) -> bool:
        if self.repaired:
            return True
        if mood == "raises":
            raise ZeroDivisionError("the secret of the plugin")
        if mood == "times-out":
            raise TimeoutError("the secret of the plugin")
        if mood == "hangs":
            await asyncio.Event().wait()
        if mood == "is-cancelled":
            raise asyncio.CancelledError
        if mood == "awaits-cancelled":
            await asyncio.sleep(0)
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        if mood == "not-now":
            raise Unavailable("The directory is read-only until noon.")
        if mood == "publishes-nonsense":
            await ctx.publish("no.such.event", {})
        if mood in ("closed", "forbidden", "in_progress"):
            raise Refused(mood, "The room is closed for the night.")
        assert mood == "asks-the-url"
        return await ctx.policy_allows("channel:1")


@pytest.fixture
def rules() -> Rules:
    """Return a plugin with a rule that fails."""
    return Rules()


@pytest.mark.parametrize("forbidden_join", ["close", "keep"])
@pytest.mark.parametrize(
    ("mood", "logged"),
    [
        ("raises", "ZeroDivisionError: the secret of the plugin"),
        ("times-out", "TimeoutError: the secret of the plugin"),
        ("hangs", "The rule of moody rooms took over 0.2 s"),
        ("is-cancelled", "The rule of moody rooms awaited a cancelled task"),
        ("awaits-cancelled", "The rule of moody rooms awaited a cancelled task"),
        ("not-now", "The rule of moody rooms cannot decide: The directory is read-only until noon."),
        ("asks-the-url", "ROOM_ACCESS cannot be asked"),
        ("publishes-nonsense", "InvalidEvent"),
    ],
)
async def test_a_rule_fails(
    serve: Serve, access_server: AccessServer, rules: Rules, caplog, mood: str, logged: str, forbidden_join: str
) -> None:
    """The join gets ``unavailable``, the connection stays open, and the client joins when the rule decides again."""
    access_server.always(500)
    server = await serve(
        plugins=[rules.plugin], handler_timeout=0.2, forbidden_join=forbidden_join, room_access=access_server.url
    )
    room = f"moody:{mood}"
    async with connect(server) as alice:
        await alice.send("join_room", room, id=1)
        error = await alice.recv_type("error", id=1)
        assert (error["room"], error["data"]["code"]) == (room, "unavailable")
        assert "secret" not in error["data"]["error"]
        assert ("The directory is read-only until noon." in error["data"]["error"]) == (mood == "not-now")
        assert not server.gateway.delivery.rooms and not server.gateway.rooms.subscriptions._joining
        assert logged in caplog.text
        assert await metric(server, "rule") == 1
        rules.repaired = True
        await alice.join(room)
    await wait_until(lambda: is_empty(server))


async def test_a_rule_refuses(serve: Serve, rules: Rules, caplog) -> None:
    """A rule that raises Refused has decided: its code and sentence are sent, and nothing is logged or counted."""
    server = await serve(plugins=[rules.plugin])
    async with connect(server) as alice:
        await alice.send("join_room", "moody:closed")
        error = (await alice.recv_type("error"))["data"]
        assert error == {"code": "closed", "error": "The room is closed for the night."}
        assert await metric(server, "rule") == 0
        assert "The rule of" not in caplog.text


async def test_a_rule_forbids_with_a_sentence_of_its_own(serve: Serve, rules: Rules) -> None:
    """Refused with the code ``forbidden`` is a no, as False is: the connection is closed with 4403."""
    server = await serve(plugins=[rules.plugin])
    async with connect(server) as alice:
        await alice.send("join_room", "moody:forbidden")
        error = (await alice.recv_type("error"))["data"]
        assert error == {"code": "forbidden", "error": "The room is closed for the night."}
        assert await alice.closed() == (4403, "Forbidden")


@pytest.mark.parametrize(("code", "is_member"), [("closed", False), ("forbidden", False), ("in_progress", True)])
async def test_a_member_that_a_rule_refuses_leaves(serve: Serve, rules: Rules, code: str, is_member: bool) -> None:
    """A member that joins again leaves the room if the refusal is permanent."""
    server = await serve(plugins=[rules.plugin], forbidden_join="keep")
    room = f"moody:{code}"
    async with connect(server) as alice:
        rules.repaired = True
        await alice.join(room)
        rules.repaired = False
        await alice.send("join_room", room, id=2)
        assert (await alice.recv_type("error", id=2))["data"]["code"] == code
        await alice.settled()
        assert ("left_room" in frame_types(alice.frames)) == (not is_member)
        assert (room in server.gateway.delivery.rooms) == is_member


async def test_failures_of_a_rule_are_logged_once_a_minute(serve: Serve, rules: Rules, caplog) -> None:
    """The first failure of each kind is logged; all are counted."""
    server = await serve(plugins=[rules.plugin])
    async with connect(server) as alice:
        for mood in ("raises", "raises", "times-out", "raises"):
            await alice.send("join_room", f"moody:{mood}")
            await alice.recv_type("error")
    lines = [record.getMessage() for record in caplog.records if record.name == "roomcast.access"]
    assert lines == ["The rule of moody rooms failed"] * 2
    assert await metric(server, "rule") == 4


async def test_a_rule_that_runs_at_shutdown(serve: Serve, rules: Rules, caplog) -> None:
    """It is cut off, and is not reported as a failure."""
    server = await serve(plugins=[rules.plugin])
    async with connect(server) as alice:
        await alice.send("join_room", "moody:hangs")
        await wait_until(lambda: server.gateway.commands._deadlines)
        await server.stop()
    assert server.gateway.counters.failed_rules == 0
    assert "The rule of" not in caplog.text
