"""Tests of ``gateway.threads``: plain functions of plugins run in threads, which a function that hangs cannot block."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from marshmallow import Schema, fields
from serving import Serve, answer, connect
from waiting import PATIENCE, wait_until

from roomcast import Context, MemberContext, Plugin, Refused, Service, Unavailable
from roomcast.gateway import threads
from roomcast.gateway.threads import Threads
from roomcast.web.server import Server

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="none")
ROOM = "channel:1"


class Anything(Schema):
    """Any value of ``n``."""

    n = fields.Raw()


class Done(Schema):
    """Something was done."""

    n = fields.Integer(required=True)


class Gate:
    """Lets plain functions wait, and lets them end with the test."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.waiting = 0

    def wait(self) -> None:
        """Block the thread until the test ends, or opens the gate."""
        self.waiting += 1
        assert self.event.wait(4 * PATIENCE)


@pytest.fixture
def gate():
    """Return a gate that opens when the test ends."""
    gate = Gate()
    yield gate
    gate.event.set()


@pytest.fixture
async def pool() -> AsyncIterator[Threads]:
    """Return threads on the running loop."""
    pool = Threads(asyncio.get_running_loop(), 0.05)
    yield pool
    pool.close()


async def test_a_plain_handler_runs_in_a_thread(serve: Serve, gate: Gate) -> None:
    """Other clients are served while it blocks. Its dict is the reply, and it publishes through from_thread."""
    plugin, names = Plugin("plain"), []
    plugin.event("plain.done")(Done)

    @plugin.command("plain.do", Anything)
    def do(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        names.append(threading.current_thread().name)
        gate.wait()
        id = ctx.from_thread(ctx.publish, Done, {"n": 1})
        return {"id": id, "room": ctx.room, "users": [user.username for user in ctx.from_thread(ctx.members, ROOM)]}

    server = await serve(plugins=[plugin])
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.join(ROOM)
        await alice.send("plain.do", ROOM, id=1)
        await wait_until(lambda: gate.waiting)
        await bob.send("ping", id=2)
        assert (await bob.recv_type("pong"))["id"] == 2
        gate.event.set()
        event = await alice.recv_type("plain.done")
        assert event["sender"] == "alice"
        reply = await alice.recv_type("reply", id=1)
        assert reply["data"] == {"id": event["id"], "room": ROOM, "users": ["alice"]}
        assert names[0].startswith("roomcast plugin thread")


async def test_failures_of_a_plain_handler(serve: Serve, caplog) -> None:
    """They are those of an async handler: Refused reaches the client, other exceptions are ``internal`` and logged."""
    plugin = Plugin("plain")
    failures: dict[str, BaseException] = {
        "refused": Refused("too_early", "Not before noon."),
        "unavailable": Unavailable("The database is away."),
        "stop": StopIteration("secret"),
        "zero": ZeroDivisionError("secret"),
    }

    @plugin.command("plain.fail", Anything, access="anyone")
    def fail(ctx: Context, data: dict[str, Any]) -> None:
        raise failures[data["n"]]

    @plugin.command("plain.odd", Anything, access="anyone")
    def odd(ctx: Context, data: dict[str, Any]) -> Any:
        return 7

    async with connect(await serve(plugins=[plugin])) as alice:
        for n, code in (
            ("refused", "too_early"),
            ("unavailable", "unavailable"),
            ("stop", "internal"),
            ("zero", "internal"),
        ):
            await alice.send("plain.fail", data={"n": n}, id=n)
            assert (await alice.recv_type("error", id=n))["data"]["code"] == code
        await alice.send("plain.odd", id="odd")
        assert (await alice.recv_type("error", id="odd"))["data"]["code"] == "internal"
    assert "ZeroDivisionError: secret" in caplog.text
    assert "StopIteration: secret" in caplog.text
    assert "database" not in caplog.text


async def test_a_plain_handler_with_a_key_runs_once(serve: Serve) -> None:
    """A repeat gets the first reply."""
    plugin, runs = Plugin("plain"), []

    @plugin.command("plain.count", Anything, access="anyone")
    def count(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        runs.append(1)
        return {"runs": len(runs)}

    async with connect(await serve(plugins=[plugin])) as alice:
        for id in (1, 2):
            await alice.send("plain.count", id=id, key="k")
            assert (await alice.recv_type("reply", id=id))["data"] == {"runs": 1}


async def test_plain_rules_and_routes(serve: Serve) -> None:
    """They run in threads too, and decide and answer as async ones."""
    plugin, names = Plugin("plain"), []

    @plugin.room("plain")
    def rule(ctx: Context, entity: str) -> bool:
        names.append(threading.current_thread().name)
        return ctx.claims_allow(f"plain:{entity}") and ctx.from_thread(ctx.policy_allows, f"plain:{entity}")

    @plugin.route("POST", "/echo", auth="public")
    def echo(service: Service, request: web.Request) -> web.Response:
        names.append(threading.current_thread().name)
        body = service.from_thread(request.json)
        return web.json_response({"body": body, "members": len(service.from_thread(service.members, "plain:1"))})

    server = await serve(plugins=[plugin], forbidden_join="keep")
    async with connect(server, rooms=["plain:1"]) as alice:
        await alice.join("plain:1")
        await alice.send("join_room", "plain:2", id=2)
        assert (await alice.recv_type("error"))["data"]["code"] == "forbidden"
        async with answer(server, "POST", "/plugins/plain/echo", {"a": 1}) as response:
            assert await response.json() == {"body": {"a": 1}, "members": 1}
    assert len(names) == 3
    assert all(name.startswith("roomcast plugin thread") for name in names)


async def test_a_decorator_may_hide_that_a_handler_is_async(serve: Serve) -> None:
    """What the plain function returns is awaited, on the event loop."""
    plugin, loops = Plugin("plain"), []

    def decorated(function: Any) -> Any:
        return lambda ctx, data: function(ctx, data)

    @plugin.command("plain.hidden", Anything, access="anyone")
    @decorated
    async def hidden(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        loops.append(asyncio.get_running_loop())
        return {"n": 1}

    async with connect(await serve(plugins=[plugin])) as alice:
        await alice.send("plain.hidden", id=1)
        assert (await alice.recv_type("reply", id=1))["data"] == {"n": 1}
    assert loops == [asyncio.get_running_loop()]


async def test_a_plain_handler_that_hangs(serve: Serve, gate: Gate) -> None:
    """After HANDLER_TIMEOUT the client gets ``timeout`` and goes on. The thread publishes nothing any more."""
    plugin = Plugin("plain")
    plugin.event("plain.done")(Done)
    outcomes: list[object] = []

    @plugin.command("plain.hang", Anything, access="anyone")
    def hang(ctx: Context, data: dict[str, Any]) -> None:
        gate.wait()
        try:
            outcomes.append(ctx.from_thread(ctx.publish, Done, {"n": 1}, room=ROOM))
        except asyncio.CancelledError as error:
            outcomes.append(error)
            raise

    server = await serve(plugins=[plugin], handler_timeout=0.1, ws_heartbeat_interval=0.4)
    async with connect(server) as alice:
        await alice.join(ROOM)
        await alice.send("plain.hang", id=1)
        await alice.send("ping", id=2)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "timeout"
        assert (await alice.recv_type("pong"))["id"] == 2
        gate.event.set()
        await wait_until(lambda: outcomes)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert await server.gateway.service.history(ROOM) == []


async def test_a_cut_off_function_ends_at_its_from_thread(serve: Serve) -> None:
    """What it waits for on the event loop is cancelled, so that its thread is free again."""
    plugin, ends = Plugin("plain"), []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("on the loop")

    @plugin.command("plain.wait", Anything, access="anyone")
    def handle(ctx: Context, data: dict[str, Any]) -> None:
        try:
            ctx.from_thread(wait)
        finally:
            ends.append("in the thread")

    server = await serve(plugins=[plugin], handler_timeout=0.1, ws_heartbeat_interval=0.4)
    async with connect(server) as alice:
        await alice.send("plain.wait", id=1)
        assert (await alice.recv_type("error", id=1))["data"]["code"] == "timeout"
        await wait_until(lambda: len(ends) == 2 and not server.gateway.threads["plain"]._running)
    assert sorted(ends) == ["in the thread", "on the loop"]


async def test_the_number_of_threads_is_limited(pool: Threads, gate: Gate, monkeypatch) -> None:
    """A further call waits until a function ends; after its patience it raises Unavailable. Threads are used again."""
    waiting = [asyncio.create_task(pool.run(gate.wait)) for _ in range(threads.MAX_THREADS)]
    await wait_until(lambda: gate.waiting == threads.MAX_THREADS)
    with pytest.raises(Unavailable, match="All 40 threads for plain functions are busy"):
        await pool.run(int)
    monkeypatch.setattr(pool, "_patience", PATIENCE)
    later = asyncio.create_task(pool.run(int))
    await asyncio.sleep(0)
    assert not later.done()
    gate.event.set()
    assert await later == 0
    await asyncio.gather(*waiting)
    assert [await pool.run(int) for _ in range(50)] == [0] * 50
    assert pool._started == threads.MAX_THREADS


async def test_functions_that_hang_do_not_stop_other_plugins(serve: Serve, gate: Gate, monkeypatch) -> None:
    """A plugin whose hooks hang in all of its threads takes no thread from the handlers of another one."""
    monkeypatch.setattr(threads, "MAX_THREADS", 2)
    hanging, plain = Plugin("hanging"), Plugin("plain")

    @hanging.on_join("channel")
    def hang(ctx: MemberContext) -> None:
        gate.wait()

    @plain.command("plain.run", Anything, access="anyone")
    def run(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        return {"n": 1}

    server = await serve(plugins=[hanging, plain], handler_timeout=60)
    async with connect(server) as alice:
        for number in range(3):
            await alice.join(f"channel:{number}")
        await wait_until(lambda: gate.waiting == 2)
        await alice.send("plain.run", id=1)
        assert (await alice.recv_type("reply"))["data"] == {"n": 1}
        gate.event.set()


async def test_one_thread_is_enough_for_calls_one_after_the_other(pool: Threads) -> None:
    """A thread that is free is used again."""
    names = {await pool.run(lambda: threading.current_thread().name) for _ in range(20)}
    assert names == {"roomcast plugin thread 1"}


async def test_a_function_whose_caller_is_gone_keeps_its_slot(pool: Threads, gate: Gate, monkeypatch) -> None:
    """Otherwise each timeout of a database that hangs would add a thread."""
    monkeypatch.setattr(pool, "_slots", asyncio.Semaphore(1))
    caller = asyncio.create_task(pool.run(gate.wait))
    await wait_until(lambda: gate.waiting)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(Unavailable):
        await pool.run(int)
    gate.event.set()
    await wait_until(lambda: not pool._running)
    assert await pool.run(int) == 0


async def test_context_variables_are_copied(pool: Threads) -> None:
    """The function sees those of its caller, and cannot change them. from_thread has those of the function."""

    def function() -> list[str]:
        seen = [VARIABLE.get()]
        VARIABLE.set("thread")
        return [*seen, pool.call(VARIABLE.get)]

    VARIABLE.set("caller")
    assert await pool.run(function) == ["caller", "thread"]
    assert VARIABLE.get() == "caller"


async def test_from_thread_returns_and_raises(pool: Threads) -> None:
    """Plain and coroutine functions are called on the loop; their results and exceptions reach the thread."""

    async def twice(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def fail() -> None:
        raise Refused("no", "No.")

    def check() -> str:
        assert pool.call(lambda: twice(4)) == 8
        assert pool.call(threading.get_ident) == loop_thread != threading.get_ident()
        with pytest.raises(Refused):
            pool.call(fail)
        with pytest.raises(ZeroDivisionError):
            pool.call(lambda: 1 / 0)
        return "checked"

    loop_thread = threading.get_ident()
    assert await pool.run(check) == "checked"


async def test_from_thread_on_the_event_loop(serve: Serve) -> None:
    """It would wait for itself; the sentence tells what to do."""
    server = await serve()
    service = server.gateway.service
    with pytest.raises(RuntimeError, match="on the event loop, call the function and await its result"):
        service.from_thread(service.members, ROOM)


async def test_from_thread_in_a_thread_of_the_plugin(serve: Serve) -> None:
    """Any thread may publish, such as one of a library that calls back."""
    server, ids = await serve(), []
    service = server.gateway.service

    def run() -> None:
        ids.append(
            service.from_thread(service.publish, "message", ROOM, {"content": "x", "username": "a", "user_id": 1})
        )

    thread = threading.Thread(target=run)
    thread.start()
    await wait_until(lambda: ids)
    thread.join()
    assert [event["id"] for event in await service.history(ROOM)] == ids


async def test_in_thread(serve: Serve) -> None:
    """An async handler or a lifespan uses it for single calls that block."""
    service = (await serve()).gateway.service
    assert await service.in_thread(int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="invalid literal"):
        await service.in_thread(int, "x")


async def test_a_function_that_hangs_does_not_keep_a_node_from_stopping(serve: Serve, gate: Gate, caplog) -> None:
    """The log names the function, and further calls are refused."""
    server: Server = await serve()
    caller = asyncio.create_task(server.gateway.service.in_thread(gate.wait))
    await wait_until(lambda: gate.waiting)
    await server.stop()
    assert "function Gate.wait of module" in caplog.text
    assert "does not end in its thread; the server stops without it" in caplog.text
    with pytest.raises(Unavailable, match="has stopped"):
        await server.gateway.service.in_thread(int)
    gate.event.set()
    await caller


async def test_a_late_failure_is_logged(pool: Threads, gate: Gate, caplog) -> None:
    """The caller does not wait for the result any longer."""

    def fail() -> None:
        gate.wait()
        raise OSError("the disk is full")

    caller = asyncio.create_task(pool.run(fail))
    await wait_until(lambda: gate.waiting)
    caller.cancel()
    gate.event.set()
    await wait_until(lambda: not pool._running)
    assert "fail of module" in caplog.text
    assert "the disk is full" in caplog.text
