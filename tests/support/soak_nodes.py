"""The nodes of a soak: ``roomcast serve`` in processes of their own, which may be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
from redis_servers import free_port
from shell import API_KEY, environment

#: Nothing takes so long, in seconds, unless it never comes.
PATIENCE = 30.0
#: How often the memory of a node is read, in seconds.
SAMPLE = 2.0


class Node:
    """One node at a port of its own. ``variables`` are its settings; its log is a file that all its lives write to."""

    def __init__(self, name: str, directory: Path, variables: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        #: Counts what may end its connections: kills and orders to stop.
        self.ends = 0
        #: Is stopped by SIGSTOP, or down.
        self.harmed = False
        #: Proportional set sizes in KiB of the life that goes on.
        self.memory: list[int] = []
        self._log = directory / f"{name}.log"
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/ws/connect"

    @property
    def log(self) -> str:
        """What it wrote, in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self) -> None:
        """Start, and again while Redis is away, until it listens."""
        async with asyncio.timeout(PATIENCE):
            while not await self._try():
                pass

    async def _try(self) -> bool:
        """Start; False if the process has ended."""
        seen = len(self.log)
        # It dies with this process, however that ends, where Linux can.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        command = [*guard, sys.executable, "-m", "roomcast", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        self.memory.clear()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment(**self._variables), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while "listens on" not in self.log[seen:]:
            if self._process.poll() is not None:
                return False
            await asyncio.sleep(0.05)
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, also if it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    async def stop(self) -> int:
        """End it in order, and return its status."""
        process = self._process
        if process is None:
            return 0
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while process.poll() is None:
                await asyncio.sleep(0.02)
        return process.returncode

    def sample(self) -> None:
        """Read how much memory it has: its own, and its part of what it shares."""
        if self._process is None or self._process.poll() is not None:
            return
        rollup = Path(f"/proc/{self._process.pid}/smaps_rollup")
        if rollup.exists() and (found := re.search(r"^Pss: +(\d+) kB", rollup.read_text(), re.MULTILINE)):
            self.memory.append(int(found[1]))

    async def call(self, session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Call its HTTP API; return the status and the JSON of the answer. Raises what ``lost`` lists."""
        headers = {"Authorization": f"Bearer {API_KEY}", **options.pop("headers", {})}
        async with session.request(method, f"{self.url}{path}", headers=headers, **options) as response:
            return response.status, await response.json()

    def tracebacks(self) -> list[str]:
        """The ends of all tracebacks in its log, each with the line it came under."""
        lines = self.log.splitlines()
        return [
            "\n".join(lines[max(number - 1, 0) : number + 40])
            for number, line in enumerate(lines)
            if "Traceback (most recent call last)" in line
        ]


#: What a call to a node that was killed, stopped or is not there raises.
lost = (aiohttp.ClientError, OSError, TimeoutError)
