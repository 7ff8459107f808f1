"""The client's files, as any page can load them."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import pytest
from serving import answer

FILES = {"roomcast.js": "text/javascript", "roomcast.d.ts": "application/typescript"}


def installed(name: str) -> bytes:
    """A file as it is in the installed package."""
    return files("roomcast.static").joinpath(name).read_bytes()


@pytest.mark.parametrize(("name", "content_type"), FILES.items())
async def test_the_client_is_served_to_pages_of_any_origin(serve, name, content_type):
    """The files are those of the package, with a type, CORS, and no login, console or not."""
    server = await serve()
    headers = {"Origin": "https://elsewhere.example", "Accept-Encoding": "identity"}
    async with answer(server, "GET", f"/static/{name}", key=None, headers=headers) as response:
        assert (response.status, response.content_type, response.charset) == (200, content_type, "utf-8")
        assert await response.read() == installed(name)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_who_has_it_is_not_sent_it_again(serve, encoding):
    """The file is kept under its ETag and asked for anew each time; one of another encoding is another."""
    server = await serve()
    headers = {"Accept-Encoding": encoding}
    async with answer(server, "GET", "/static/roomcast.js", key=None, headers=headers) as response:
        tag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "public, no-cache"
    for known, status in ((tag, 304), (f'"other", W/{tag}', 304), ("*", 304), ('"other"', 200)):
        headers["If-None-Match"] = known
        async with answer(server, "GET", "/static/roomcast.js", key=None, headers=headers) as response:
            assert (response.status, response.headers["ETag"]) == (status, tag)
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert (await response.read() == b"") == (status == 304)
    headers = {"If-None-Match": tag, "Accept-Encoding": "identity" if encoding == "gzip" else "gzip"}
    async with answer(server, "GET", "/static/roomcast.js", key=None, headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.000, br", False), ("br", False)],
)
async def test_it_is_packed_for_who_can_unpack(serve, accepted, zipped):
    """gzip makes a third of it; who does not take gzip gets it plain."""
    server = await serve()
    headers = {"Accept-Encoding": accepted}
    async with answer(
        server, "GET", "/static/roomcast.js", key=None, headers=headers, auto_decompress=False
    ) as response:
        body = await response.read()
        assert (response.headers.get("Content-Encoding") == "gzip") == zipped
        assert response.headers["Vary"] == "Accept-Encoding"
    assert (gzip.decompress(body) if zipped else body) == installed("roomcast.js")


async def test_nothing_else_is_served(serve):
    """Whatever else the package holds stays there."""
    server = await serve()
    for name in ("__init__.py", "..%2Fstatic%2Froomcast.js", ""):
        async with answer(server, "GET", f"/static/{name}", key=None) as response:
            assert response.status == 404


def test_the_client_is_small():
    """Even with its comments it is less than 16 KB on the way; minified, which pages may do, it is 8."""
    assert len(gzip.compress(installed("roomcast.js"))) < 16 * 1024


def test_every_public_name_is_documented():
    """Each option, and each public method, is explained in the types."""
    script, types = installed("roomcast.js").decode(), installed("roomcast.d.ts").decode()
    defaults = script[script.index("export const DEFAULTS") : script.index("/** The least")]
    options = [line.split(":")[0].strip() for line in defaults.splitlines()[1:] if line.startswith("  ")]
    assert len(options) > 10
    documented = types[types.index("export interface Options") : types.index("export const DEFAULTS")]
    assert [name for name in options if f"  {name}?:" not in documented] == []
    client = script[script.index("export class ChatClient") :]
    methods = set(re.findall(r"^  (\w+)\(.*\) {$", client, re.MULTILINE)) - {"constructor"}
    described = types[types.index("export class ChatClient") :]
    assert {"connect", "close", "on", "off", "joinRoom", "leaveRoom", "sendMessage", "send"} <= methods
    assert [name for name in methods if f"  {name}(" not in described and f"  {name}<" not in described] == []
