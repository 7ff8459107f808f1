"""Failures of plugins, of ROOM_ACCESS and of the broker: clients get neutral sentences, the log has the causes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

import pytest
from access_server import AccessServer
from disclosures import Visitor, careless, details, traces
from sample_commands import Anything
from serving import Serve, connect, token_for

from roomcast import Context, Plugin, Service, Unavailable
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import BrokerUnavailable
from roomcast.failure_log import EXCEPTION_LINES

SECRET_TEXT = "postgres://app:pa55@10.0.0.7:5432/app in /srv/app/database.py"


def failing_plugin(make_error: Callable[[], Exception]) -> Plugin:
    """Return a plugin whose rule, command and route raise a new error.

    An error that outlived the test would keep the requests in its traceback in memory.
    """
    plugin = Plugin("failing")

    @plugin.command("failing.command", Anything, access="anyone")
    async def command(ctx: Context, data: dict) -> None:
        """Fail."""
        raise make_error()

    @plugin.room("failing")
    async def rule(ctx: Context, entity_id: str) -> bool:
        """Fail."""
        raise make_error()

    @plugin.route("GET", "/fails", auth="public")
    async def fails(service: Service, request: object) -> None:
        """Fail."""
        raise make_error()

    return plugin


@pytest.mark.parametrize(
    ("make_error", "expected"),
    [
        (lambda: OSError(2, "No file", SECRET_TEXT), "internal"),
        (lambda: Unavailable("It is closed.", SECRET_TEXT), "unavailable"),
        (lambda: BrokerUnavailable(SECRET_TEXT), "unavailable"),
    ],
    ids=["OSError", "Unavailable", "BrokerUnavailable"],
)
async def test_a_plugin_fails(
    serve: Serve, make_error: Callable[[], Exception], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No byte that a client receives has the text of an exception, or the detail of ``Unavailable``."""
    server = await serve(plugins=[careless, failing_plugin(make_error)])
    visitor = Visitor(server)
    async with connect(server, 1) as alice:
        codes = [
            await visitor.command(alice, "failing.command", data={}),
            await visitor.command(alice, "failing.command", data={}, key="k"),
            await visitor.command(alice, "join_room", "failing:1"),
        ]
    await visitor.get("GET", "/plugins/failing/fails")
    assert codes == [expected, expected, "unavailable"]
    assert not traces(visitor.received, "pa55", "10.0.0.7", "5432", "postgres")
    for where in ("failing.command", "The rule of failing rooms", "GET /plugins/failing/fails"):
        assert re.search(f"{re.escape(where)}.*", caplog.text)
    assert caplog.text.count(SECRET_TEXT) >= 3


@pytest.mark.parametrize("fault", ["no answer", "closed port", "503"])
async def test_the_url_of_room_access_fails(
    serve: Serve, access_server: AccessServer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients do not learn the URL, nor what it answers. The log has both."""
    access_server.never() if fault == "no answer" else access_server.always(503)
    if fault == "closed port":
        await access_server.stop()
    server = await serve(room_access=access_server.url, room_access_timeout=0.3)
    visitor = Visitor(server)
    async with connect(server, 7) as alice:
        assert await visitor.command(alice, "join_room", "channel:1") == "unavailable"
    port = access_server.url.split(":")[2].partition("/")[0]
    assert not traces(visitor.received, port, "may-join", "503")
    assert f"127.0.0.1:{port}" in caplog.text


async def test_the_broker_is_closed(serve: Serve) -> None:
    """Without the key, nothing names the part that failed. With it, responses have the detail."""
    server = await serve(plugins=[careless])
    await server.gateway.broker.close()
    visitor = Visitor(server)
    assert 500 not in await visitor.request_everything()
    await visitor.connect()
    assert not traces(visitor.received, "embedded", "not running")
    assert {"embedded broker" in detail for detail in await details(server)} == {True}


async def test_exceptions_are_logged_ten_times_a_minute(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A client that repeats a command that fails does not flood the log. The traceback is in each line."""
    server = await serve(plugins=[failing_plugin(lambda: LookupError("the reason"))], ws_message_rate=0)
    async with connect(server, 1) as alice:
        with caplog.at_level(logging.INFO, logger="roomcast"):
            for _ in range(EXCEPTION_LINES + 5):
                await alice.send("failing.command", data={}, id=1)
                assert (await alice.recv_type("error"))["data"]["code"] == "internal"
    lines = [record for record in caplog.records if "failing.command of user 1 failed" in record.getMessage()]
    assert len(lines) == EXCEPTION_LINES
    assert all(record.exc_info for record in lines)


async def test_unavailable_is_logged_once_a_minute(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Each type of command has its own line, with the detail."""
    server = await serve(plugins=[failing_plugin(lambda: BrokerUnavailable("cut at 10.0.0.7"))])
    async with connect(server, 1) as alice:
        for _ in range(20):
            await alice.send("failing.command", data={}, id=1)
            assert (await alice.recv_type("error"))["data"]["code"] == "unavailable"
    assert caplog.text.count("cut at 10.0.0.7") == 1
    assert token_for(1)[:20] not in caplog.text


class FailingMetrics(MemoryBroker):
    """A broker with a bug."""

    def metrics(self) -> tuple[()]:
        raise LookupError(SECRET_TEXT)


async def test_asyncios_debug_mode(serve: Serve) -> None:
    """The response to a request that fails outside the API has no traceback, as it has by default in this mode."""
    asyncio.get_running_loop().set_debug(True)
    visitor = Visitor(await serve(broker=FailingMetrics(10, 60.0)))
    assert await visitor.get("GET", "/metrics", Accept="text/html") == 500
    assert not traces(visitor.received, "pa55")


async def test_refused_connections_do_not_flood_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """After an outage of the broker all clients connect again. The log has one line a minute, with the cause."""
    server = await serve()
    await server.gateway.broker.close()
    visitor = Visitor(server)
    for _ in range(EXCEPTION_LINES):
        await visitor.connect()
    lines = [record.getMessage() for record in caplog.records if "refused a connection" in record.getMessage()]
    assert len(visitor.received) == 2 * EXCEPTION_LINES
    assert len(lines) == 1 and "embedded broker" in lines[0]
