"""For tests of ``roomcast_client``: a client of either kind with one interface, and servers that fail on demand."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from paths import ROOT
from serving import KEY, SECRET, Listening, url
from shell import environment

from roomcast_client import AsyncRoomcast, Retries, Roomcast

#: The folder of the package.
CLIENT = ROOT / "clients" / "python"
#: Many quick attempts.
QUICK = Retries(first_pause=0.001, longest_pause=0.01, deadline=20)
Kind = type[Roomcast] | type[AsyncRoomcast]
KINDS = (Roomcast, AsyncRoomcast)


def with_client(**variables: str) -> dict[str, str]:
    """Return variables with which a new process can import ``roomcast_client``."""
    before = os.environ.get("PYTHONPATH", "")
    return {**variables, "PYTHONPATH": f"{CLIENT}{os.pathsep}{before}" if before else str(CLIENT)}


class AnyClient:
    """A ``Roomcast``, whose calls run in threads, or an ``AsyncRoomcast``: ``await client.publish(…)`` for both."""

    def __init__(self, client: Roomcast | AsyncRoomcast) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        if inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **options: asyncio.to_thread(method, *args, **options)


@asynccontextmanager
async def open_client(
    kind: type[Roomcast] | type[AsyncRoomcast], *args: Any, **options: Any
) -> AsyncIterator[AnyClient]:
    """Open a client of ``kind``, and close it."""
    client = kind(*args, **options)
    try:
        yield AnyClient(client)
    finally:
        if isinstance(client, AsyncRoomcast):
            await client.aclose()
        else:
            client.close()


class ScriptedServer:
    """An HTTP server that answers each request with the next element of ``script``, and the last one forever.

    An element is a function that returns a response or raises. ``requests`` has the method, the path, the headers and
    the body of each request.
    """

    def __init__(self, *script: Callable[[], web.Response]) -> None:
        self.script = list(script)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), body))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        try:
            return step()
        except ConnectionResetError:
            assert request.transport is not None
            request.transport.abort()
            raise


def answer(document: Any, status: int = 200, **headers: str) -> Callable[[], web.Response]:
    """Return a step that answers with JSON."""
    return lambda: web.json_response(
        document, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def failure(status: int, code: str, **headers: str) -> Callable[[], web.Response]:
    """Return a step that answers with an error of roomcast."""
    return answer({"error": f"The sentence of {code}.", "code": code}, status, **headers)


def lost() -> web.Response:
    """Close the connection without an answer: a step."""
    raise ConnectionResetError


@asynccontextmanager
async def scripted(*script: Callable[[], web.Response]) -> AsyncIterator[ScriptedServer]:
    """Run a ``ScriptedServer``."""
    server = ScriptedServer(*script)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


async def run_python(server: Listening, source: str, *args: str, **variables: str) -> str:
    """Run a program that uses ``roomcast_client`` in a process of its own, against ``server``; return what it prints.

    ``http://localhost:8000`` in the program becomes the URL of ``server``.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", source.replace("http://localhost:8000", url(server, "")), *args),
        env=environment(**with_client(API_KEY=KEY, JWT_SECRET=SECRET, **variables)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()
