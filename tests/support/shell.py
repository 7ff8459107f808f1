"""For tests of the command line: run roomcast in a process of its own, and wait for its output."""

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
from pathlib import Path
from string import Template
from typing import Any

from roomcast.settings import describe

SECRET = "a secret of the tests, long enough for anything"
API_KEY = "an-api-key-of-the-tests"
#: The timeout of every wait, in seconds. It is much longer than any expected wait, also on a busy machine.
PATIENCE = 180.0
#: The data of a valid event of type task.created.
TASK = '{"task_id": 7, "title": "From a shell"}'

ROOMCAST = (sys.executable, "-m", "roomcast")
#: The variable with which ``Process`` starts its command under a lower limit of open files.
OPEN_FILES = "TEST_OPEN_FILES"
#: The programs of the environment that runs the tests, roomcast among them.
BIN = str(Path(sys.executable).parent)
_OWN = {variable.name for variable in describe()} | {"ROOMCAST_HOST", "ROOMCAST_TOKEN", "ROOMCAST_URL"}


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process without roomcast's settings, and with ``variables``."""
    return {name: value for name, value in os.environ.items() if name not in _OWN} | variables


def shell(command: str, cwd: Path, **variables: str) -> str:
    """Run lines of a shell in ``cwd``, with ``roomcast`` on the PATH; return what they print."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env=environment(PATH=path, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def roomcast(*args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends."""
    return subprocess.run(
        [*ROOMCAST, *args], env=environment(**variables), input=stdin, capture_output=True, text=True, timeout=PATIENCE
    )


def run_curl(line: str, **variables: str) -> dict[str, Any]:
    """Run a line that calls curl in a shell, or send the request that it describes if there is no curl.

    ``variables`` are added to the environment of the shell. Return the JSON of the response.
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
    """Run a command that must fail with ``status``, and return its one sentence. It must print nothing else."""
    done = roomcast(*args, **variables)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0].removeprefix("Error: ")


class Process:
    """A command that is running. ``out`` and ``err`` are the lines that it has written so far."""

    def __init__(self, *args: str, command: tuple[str, ...] = ROOMCAST, **variables: str) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        if limit := variables.pop(OPEN_FILES, None):
            command = ("sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *command)
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
                with self._changed:
                    lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, lines: list[str], *, times: int = 1) -> re.Match[str]:
        """Wait until ``times`` of ``lines`` match ``pattern``. Return the last of these matches."""

        def found() -> list[re.Match[str]] | None:
            matches = [match for line in lines if (match := re.search(pattern, line))]
            assert len(matches) >= times or any(reader.is_alive() for reader in self._readers), self.err
            return matches if len(matches) >= times else None

        with self._changed:
            matches = self._changed.wait_for(found, PATIENCE)
        assert matches, f"no line matches {pattern!r}: {self.out} {self.err}"
        return matches[times - 1]

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait until the process ends. Return its status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def stop(self) -> int:
        """Terminate the process, or kill it if it does not end. Return its status."""
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
    """A server that listens when the constructor returns. ``url`` is its http:// URL, ``ws`` its ws:// URL."""

    def __init__(self, *args: str, **variables: str) -> None:
        command = args or ("serve", "--port", "0")
        if command[0] == "serve":
            variables = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "DRAIN_SECONDS": "0", **variables}
        super().__init__(*command, **variables)
        try:
            self.url = self.wait_for(r"listens on (\S+)", self.err)[1]
        except BaseException:
            self.stop()
            raise
        self.ws = self.url.replace("http", "ws", 1)


def listening(server: Running, *args: str) -> Process:
    """Return a ``roomcast listen`` that has joined the rooms in ``args``."""
    process = Process("listen", *args, "--url", server.ws, JWT_SECRET=SECRET)
    process.wait_for(r"^Listening in", process.err, times=sum(":" in arg for arg in args if not arg.startswith("-")))
    return process


def publish(server: Running, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``roomcast publish`` with the server's API key."""
    return roomcast("publish", *args, "--url", server.url, stdin=stdin, API_KEY=API_KEY)


def run_module(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a module of this Python; the test fails with its output if the module fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
