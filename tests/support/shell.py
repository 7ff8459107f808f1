"""For tests of the command line: roomcast in a process of its own, whose lines can be waited for."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from string import Template
from typing import Any

from roomcast.settings import describe

SECRET = "a secret of the tests, long enough for anything"
API_KEY = "an-api-key-of-the-tests"
#: Nothing takes so long, in seconds, unless it never comes.
PATIENCE = 30.0

ROOMCAST = (sys.executable, "-m", "roomcast")
_OWN = {variable.name for variable in describe()} | {"ROOMCAST_TOKEN", "ROOMCAST_URL"}


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without roomcast's settings, and with ``variables``."""
    return {name: value for name, value in os.environ.items() if name not in _OWN} | variables


def roomcast(*args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*ROOMCAST, *args], env=environment(**variables), input=stdin, capture_output=True, text=True, timeout=PATIENCE
    )


def run_curl(line: str, **variables: str) -> dict[str, Any]:
    """Run a line that calls curl with a shell, or without curl, send the request that it describes; return the JSON.

    ``variables`` are added to the environment of the shell.
    """
    if shutil.which("curl"):
        done = subprocess.run(
            f"{line.strip()} -sS", shell=True, env=environment(**variables), capture_output=True, text=True, timeout=30
        )
        return json.loads(done.stdout)
    words = shlex.split(Template(line.replace("\\\n", "")).safe_substitute(variables))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1].encode()
    address = next(word for word in words if word.startswith("http"))
    with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as response:
        return json.loads(response.read())


def refusal(*args: str, status: int = 2, **variables: str) -> str:
    """The one sentence with which a command refuses to go on; there must be no traceback and no other output."""
    done = roomcast(*args, **variables)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0].removeprefix("Error: ")


class Process:
    """A command that goes on. ``out`` and ``err`` are the lines it has written so far."""

    def __init__(self, *args: str, command: tuple[str, ...] = ROOMCAST, **variables: str) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*command, *args],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        streams = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=self._read, args=pair) for pair in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str, lines: list[str], *, times: int = 1) -> re.Match[str]:
        """Wait until so many of ``lines`` match, and return the last match."""

        def found() -> list[re.Match[str]] | None:
            matches = [match for line in lines if (match := re.search(pattern, line))]
            assert len(matches) >= times or any(reader.is_alive() for reader in self._readers), self.err
            return matches if len(matches) >= times else None

        with self._news:
            matches = self._news.wait_for(found, PATIENCE)
        assert matches, f"{pattern!r} was not written; but: {self.out} {self.err}"
        return matches[times - 1]

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end, and return the status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def stop(self) -> int:
        """End it, however it is, and return the status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.ended()
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            return self.ended()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Running(Process):
    """A server, which listens when this returns. ``url`` is its http:// URL."""

    def __init__(self, *args: str, **variables: str) -> None:
        given = args or ("serve", "--port", "0")
        if given[0] == "serve":
            variables = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "DRAIN_SECONDS": "0", **variables}
        super().__init__(*given, **variables)
        try:
            self.url = self.wait_for(r"listens on (\S+)", self.err)[1]
        except BaseException:
            self.stop()
            raise
        self.ws = self.url.replace("http", "ws", 1)
