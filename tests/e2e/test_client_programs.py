"""roomcast.js in Node 22 or later, with its own WebSocket and with the package ws, in Deno and in Bun.

Only those that are installed are tested. See ``runtimes``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from node_tools import NODE, has_modules
from serving import PATIENCE, connect, token_for
from tcp_proxy import Proxy

MODULE = Path(str(files("roomcast.static"))) / "roomcast.js"
#: The beginning of each program. The client's timeout is longer than the test's: a reconnect has another cause.
HEAD = """
import { createRequire } from "node:module";
import { ChatClient } from %(module)s;
const [url, token, ws] = globalThis.Deno ? Deno.args : process.argv.slice(2);
const print = (type, data) => console.log(JSON.stringify({ type, data }));
const options = { url, timeout: 600_000, reconnect: { base: 10, max: 50 } };
if (ws) options.WebSocket = createRequire(import.meta.url)("ws");
const client = new ChatClient(async () => token, options);
"""
PROGRAM = """
client.on("message", ({ data }) => {
  print("message", data.content);
  if (data.content === "end") client.close();
});
client.on("state", ({ data }) => data.state === "waiting" && print("waiting", data.code));
client.on("connected", ({ data }) => print("connected", data.username));
client.connect();
await client.joinRoom("channel:1");
await client.sendMessage("channel:1", "Hello").then(({ type }) => print("reply", type));
await client.sendMessage("channel:2", "Hello").catch(({ code }) => print("error", code));
client.sendMessage("channel:2", "this promise is ignored");
"""
#: Requests that cannot succeed, between others that do. Each line is an outcome.
REQUESTS = """
const signal = AbortSignal.abort(new Error("aborted"));
const deep = JSON.parse("[".repeat(1000) + "]".repeat(1000));
const late = client.joinRoom("channel:9", { timeout: 10 }).catch(({ code }) => code);
print("before connect()", await late);
const received = new Promise((resolve) => {
  client.on("message", ({ data }) => print("message", data.content) ?? (data.content === "last" && resolve()));
});
client.on("error", () => {});
client.connect();
const requests = {
  join: client.joinRoom("channel:1"),
  cut: client.sendMessage("channel:1", "hello \\u{1f600}".slice(0, 7)),
  deep: client.sendMessage("channel:1", "deep", { deep }),
  big: client.sendMessage("channel:1", "x".repeat(5000)),
  aborted: client.sendMessage("channel:1", "aborted", {}, { signal }),
  forbidden: client.joinRoom("project:1"),
  last: client.sendMessage("channel:1", "last"),
};
for (const [name, promise] of Object.entries(requests)) {
  print(name, await promise.then(({ type }) => type, ({ code, message }) => code ?? message));
}
await received;
print("rooms", client.rooms);
client.close();
print("after close()", await client.leaveRoom("channel:1").catch(({ code }) => code));
"""

#: Reads a room in a loop, which ends with the message "end".
LOOP = """
const room = client.room("channel:1", { last: 5, messages: true });
client.connect();
for await (const { type, data } of room) {
  if (type !== "message") continue;
  print("message", data.content);
  if (data.content === "before") {
    room.typing();
    room.send("end");
  } else if (data.content === "end") room.leave();
}
print("messages", room.messages.map(({ data }) => data.content));
print("state", room.state);
client.close();
"""

#: Closes its client while nothing arrives at the server.
CLOSING = """
await client.connect();
print("connected");
process.stdin.once("data", () => client.close());
process.stdin.unref?.();
"""


def runtimes() -> Iterator[Any]:
    """Yield the commands that run a program on this machine, and its further arguments, as parameters of a test.

    The package ws is in NODE_PATH. Deno and Bun are on the PATH, and Deno may be next to this Python, from deno on
    PyPI. Without any, this module has no tests.
    """
    if NODE:
        yield pytest.param((NODE,), (), id="node")
    if has_modules("ws"):
        yield pytest.param((NODE,), ("ws",), id="node-ws")
    deno = shutil.which("deno", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if deno:
        yield pytest.param((deno, "run", "--no-config", "--allow-net", "--allow-read", "--allow-env"), (), id="deno")
    if bun := shutil.which("bun"):
        yield pytest.param((bun,), (), id="bun")


class Program:
    """A running program. ``lines`` are the pairs of a type and data that it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[tuple[str, Any]] = []

    async def until(self, *line: Any) -> None:
        """Read lines up to the next one that is ``line``."""
        assert self.process.stdout is not None and self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                text = await self.process.stdout.readline()
                assert text, (await self.process.stderr.read()).decode()
                printed = json.loads(text)
                self.lines.append((printed["type"], printed.get("data")))
                if self.lines[-1] == line:
                    return

    def printed(self, *types: str) -> list[Any]:
        """Return the data of the lines of these types."""
        return [data for type, data in self.lines if type in types]


@asynccontextmanager
async def running_program(folder: Path, source: str, command: tuple[str, ...], *args: str) -> AsyncIterator[Program]:
    """Run ``source`` with ``args``, and kill it at the end of the block if it has not ended."""
    file = folder / "program.mjs"
    file.write_text(HEAD % {"module": json.dumps(MODULE.as_uri())} + source)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, file, *args, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if RUNTIMES := list(runtimes()):

    @pytest.mark.parametrize(("command", "args"), RUNTIMES)
    async def test_program_sends_and_reconnects(serve, tmp_path, command, args):
        """Without a DOM, it joins, sends, gets an error, resumes after a loss, and ends when the client is closed."""
        server = await serve()
        async with Proxy("127.0.0.1", server.port) as proxy, connect(server, 2, "bob") as bob:
            await bob.join("channel:1")
            url = f"http://127.0.0.1:{proxy.port}"
            async with running_program(tmp_path, PROGRAM, command, url, token_for(), *args) as program:
                await program.until("error", "not_joined")
                await proxy.refuse()
                proxy.reset()
                for _ in range(3):  # the loss, and two refused attempts
                    await program.until("waiting", 1006)
                await bob.send("send_message", "channel:1", {"content": "meanwhile"})
                await bob.settled()
                await proxy.start()
                await program.until("message", "meanwhile")
                await bob.send("send_message", "channel:1", {"content": "end"})
                await program.until("message", "end")
                assert await asyncio.wait_for(program.process.wait(), PATIENCE) == 0
            assert program.printed("connected") == ["alice", "alice"]
            assert program.printed("message") == ["Hello", "meanwhile", "end"]
            assert program.printed("reply", "error") == ["sent", "not_joined"]

    @pytest.mark.parametrize(("command", "args"), RUNTIMES)
    async def test_every_request_of_a_program_settles(serve, tmp_path, command, args):
        """Requests that the client or the server refuses, or that were aborted, do not affect the others."""
        server = await serve(ws_max_message_size=4096)
        url = f"http://127.0.0.1:{server.port}"
        token = token_for(rooms=["channel:*"])
        async with running_program(tmp_path, REQUESTS, command, url, token, *args) as program:
            await program.until("after close()", "closed")
            assert await asyncio.wait_for(program.process.wait(), PATIENCE) == 0
        assert dict(program.lines) == {
            **{"before connect()": "timeout", "join": "joined_room", "cut": "sent", "deep": "bad_json"},
            **{"big": "too_big", "aborted": "aborted", "forbidden": "forbidden", "last": "sent"},
            **{"rooms": ["channel:1"], "message": "last", "after close()": "closed"},
        }
        assert program.printed("message") == ["hello \ufffd", "last"]

    @pytest.mark.parametrize(("command", "args"), RUNTIMES)
    async def test_program_reads_a_room_in_a_loop(serve, tmp_path, command, args):
        """It receives the newest events and the later ones, and ends when it has left the room."""
        server = await serve()
        async with connect(server, 2, "bob") as bob:
            await bob.join("channel:1")
            await bob.send("send_message", "channel:1", {"content": "before"})
            await bob.settled()
            url = f"http://127.0.0.1:{server.port}"
            async with running_program(tmp_path, LOOP, command, url, token_for(), *args) as program:
                await program.until("state", "left")
                assert await asyncio.wait_for(program.process.wait(), PATIENCE) == 0
            assert program.printed("message") == ["before", "end"]
            assert program.printed("messages") == [["before", "end"]]

    # The WebSocket of Node and that of Deno have no method that ends a connection without an answer of the server.
    @pytest.mark.parametrize(("command", "args"), [one for one in RUNTIMES if one.id in ("node-ws", "bun")])
    async def test_program_ends_if_its_connection_is_dead(serve, tmp_path, command, args):
        """After close(), a program does not run on because the server does not answer."""
        server = await serve()
        async with Proxy("127.0.0.1", server.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with running_program(tmp_path, CLOSING, command, url, token_for(), *args) as program:
                await program.until("connected", None)
                proxy.stall()
                assert program.process.stdin is not None
                program.process.stdin.write(b"close\n")
                program.process.stdin.close()
                assert await asyncio.wait_for(program.process.wait(), PATIENCE) == 0
