"""The examples of docs/python-client.md, run as they are written, and its tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docs_pages import code, rows, snippet
from python_client import CLIENT, run_python, with_client
from serving import KEY, Serve, call, connect, registry_with, url
from shell import environment

from roomcast.specs.asyncapi import asyncapi
from roomcast_client import Roomcast, errors
from roomcast_client.testing import Recorder

PAGE = "docs/python-client.md"


async def published(server: Any, room: str) -> list[str]:
    """Return the types of the events in a room."""
    _, body = await call(server, "GET", f"/api/v1/rooms/{room}/history")
    return [event["type"] for event in body["events"]]


@pytest.mark.slow
async def test_the_client_without_asyncio(serve: Serve) -> None:
    """The lines publish an event, a list and a notification."""
    server = await serve()
    async with connect(server, "auth0|5f7c1") as user:
        await run_python(server, snippet("the Python client"))
        assert (await user.recv_type("notification.new"))["data"]["title"] == "Done"
    assert await published(server, "project:123") == ["task.created", "task.status_changed"]
    assert await published(server, "task:790") == ["task.status_changed"]


@pytest.mark.slow
async def test_the_readme_of_the_client(serve: Serve) -> None:
    """The lines publish an event and print the names of the members."""
    server = await serve()
    async with connect(server, 7, "alice") as alice:
        await alice.join("project:123")
        assert await run_python(server, snippet("README of the Python client")) == "alice\n"
        assert (await alice.recv_type("task.created"))["data"]["task_id"] == 790


@pytest.mark.slow
async def test_the_client_with_asyncio(serve: Serve) -> None:
    """The program publishes and prints the members."""
    server = await serve()
    assert await run_python(server, snippet("the Python client with asyncio")) == "[]\n"
    assert await published(server, "project:123") == ["task.deleted"]


@pytest.mark.slow
async def test_retries_and_errors(serve: Serve) -> None:
    """The client with other retries works, and the error that is shown is the one that is raised."""
    server = await serve()
    source = snippet("retries of the Python client")
    assert await run_python(server, f"{source}\nprint(roomcast.rooms())") == "[]\n"
    source = snippet("errors of the Python client")
    comment = re.search(r"# (invalid_data .*)", source)
    assert comment is not None
    assert await run_python(server, source) == f"{comment[1]}\n"


@pytest.mark.slow
async def test_tokens(serve: Serve) -> None:
    """The server accepts the token, with the user and the rooms of the example."""
    server = await serve()
    token = await run_python(server, f"{snippet('tokens of the Python client')}\nprint(token, end='')")
    async with connect(server, token=token) as alice:
        assert alice.welcome["data"]["username"] == "alice"
        await alice.join("channel:1")
    with Roomcast(url(server, ""), KEY) as client:
        assert re.match(r"http://127\.0\.0\.1:\d+", repr(client).partition("'")[2])


@pytest.mark.slow
async def test_types_of_events(serve: Serve, tmp_path: Path) -> None:
    """The command writes a module. With it, the example passes mypy --strict and prints the title of the event."""
    server = await serve()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euc", snippet("Python types of this server")]
    subprocess.run(command, cwd=tmp_path, env=environment(PATH=path), check=True, timeout=60)
    source = snippet("typed events of the Python client")
    (tmp_path / "example.py").write_text(source)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(CLIENT / ".mypy_cache"), "example.py"],
        cwd=tmp_path,
        env=environment(MYPYPATH=str(CLIENT)),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    inserted = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{source}"
    assert await run_python(server, inserted) == "Try it\n"
    listed = [
        name for row in rows(PAGE, "## Types of your events") for name in re.findall(r"`(\w+)(?:\(.*\))?`", row[0])
    ]
    text = (tmp_path / "events.py").read_text()
    assert len(listed) == 9 and all(re.search(rf"^(class |def )?{name}\b", text, re.MULTILINE) for name in listed)


@pytest.mark.slow
def test_a_test_with_a_recorder(tmp_path: Path) -> None:
    """The command writes the document, and the example's tests pass."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = environment(**with_client(PATH=path))
    subprocess.run(
        ["bash", "-euc", snippet("the document for tests")], cwd=tmp_path, env=variables, check=True, timeout=60
    )
    (tmp_path / "test_tasks.py").write_text(snippet("a test with a recorder"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tasks.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert "2 passed" in done.stdout, done.stdout


def test_every_attribute_of_a_recorder_is_listed() -> None:
    """The table has each public attribute and method."""
    listed = [
        name
        for row in rows(PAGE, "## Test an application")
        for name in re.findall(r"^`(\w+)|^`client`, `(\w+)", row[0])
    ]
    names = {name for pair in listed for name in pair if name} | {"async_client"}
    recorder = Recorder(asyncapi(registry_with()))
    assert names == {name for name in dir(recorder) if not name.startswith("_")}


def test_every_method_is_listed() -> None:
    """The table has each public method with its parameters."""
    listed = {code(row[0]) for row in rows(PAGE, "## Methods") if "`" in row[0]}
    names = {name.partition("(")[0] for name in listed}
    assert names == {name for name in vars(Roomcast) if not name.startswith("_")}


def test_every_error_is_listed() -> None:
    """The table has each exception that a call can raise."""
    listed = {code(row[0]) for row in rows(PAGE, "## Errors") if "`" in row[0]}
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert listed == kinds - {"RoomcastError", "ListenerStopped"}
