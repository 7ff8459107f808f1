"""The nodes of a soak: processes of ``roomcast serve`` that can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from redis_servers import free_port
from shell import API_KEY, environment

#: How long a node may take to start or to end, in seconds.
PATIENCE = 30.0
#: The time between two readings of a node's memory, in seconds.
SAMPLE = 2.0
#: What ``Node.call`` raises for a node that was killed, is stopped or does not run.
CALL_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class Node:
    """One node at a fixed port. ``variables`` are its settings, ``options`` those of ``roomcast serve``.

    All its processes append to one log file.
    """

    def __init__(self, name: str, directory: Path, variables: dict[str, str], options: Sequence[str] = ()) -> None:
        self.name = name
        self._options = options
        self.port = free_port()
        #: The number of kills and restarts so far. Each ends all connections of the node.
        self.shutdowns = 0
        #: True while a fault is at work: the process is stopped by SIGSTOP, or does not run.
        self.is_faulty = False
        #: Proportional set sizes of the current process, in KiB.
        self.memory: list[int] = []
        self._log = directory / f"{name}.log"
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL of the HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """Return the URL of the WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}/api/v1/ws/connect"

    @property
    def log(self) -> str:
        """Return what all processes of the node wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def start(self, patience: float = PATIENCE) -> None:
        """Start the node, and retry while Redis is unavailable, until the node listens."""
        async with asyncio.timeout(patience):
            while not await self._try():
                pass

    async def _try(self) -> bool:
        """Start a process. Return False if it ends before it listens."""
        start = len(self.log)
        # On Linux the node is killed when this process ends, even if that is killed.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        command = [*guard, sys.executable, "-m", "roomcast", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        command += self._options
        self.memory.clear()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment(**self._variables), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while "listens on" not in self.log[start:]:
            if self._process.poll() is not None:
                return False
            await asyncio.sleep(0.05)
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process, even if it is stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    async def stop(self) -> int:
        """End the process with SIGTERM and return its exit status."""
        process = self._process
        if process is None:
            return 0
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while process.poll() is None:
                await asyncio.sleep(0.02)
        return process.returncode

    def sample_memory(self) -> None:
        """Append the current proportional set size to ``memory``."""
        if self._process is None or self._process.poll() is not None:
            return
        rollup = Path(f"/proc/{self._process.pid}/smaps_rollup")
        if rollup.exists() and (found := re.search(r"^Pss: +(\d+) kB", rollup.read_text(), re.MULTILINE)):
            self.memory.append(int(found[1]))

    async def call(self, session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Call the HTTP API; return the status and the JSON body. Raises ``CALL_ERRORS``."""
        headers = {"Authorization": f"Bearer {API_KEY}", **options.pop("headers", {})}
        async with session.request(method, f"{self.url}{path}", headers=headers, **options) as response:
            return response.status, await response.json()

    def tracebacks(self) -> list[str]:
        """Return each traceback in the log, with the line before it."""
        lines = self.log.splitlines()
        return [
            "\n".join(lines[max(number - 1, 0) : number + 40])
            for number, line in enumerate(lines)
            if "Traceback (most recent call last)" in line
        ]
