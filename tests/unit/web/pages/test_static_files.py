"""The client's files as they are served to pages, and the committed bundle against its sources."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
from importlib.resources import files

import pytest
from node_tools import MODULES
from paths import ROOT
from serving import url

PACKAGE = json.loads((ROOT / "package.json").read_text())
FILES = {
    "roomcast.js": "text/javascript",
    "roomcast.js.map": "application/json",
    "roomcast.d.ts": "application/typescript",
}


def installed(name: str) -> bytes:
    """Return a file of the installed package."""
    return files("roomcast.static").joinpath(name).read_bytes()


@pytest.mark.parametrize(("name", "content_type"), FILES.items())
async def test_the_client_is_served_to_pages_of_any_origin(gateway_client, name, content_type):
    """The files of the package are served with a content type and CORS headers, and without a login."""
    client = await gateway_client()
    headers = {"Origin": "https://elsewhere.example", "Accept-Encoding": "identity"}
    response = await client.get(f"/static/{name}", headers=headers)
    assert (response.status, response.content_type, response.charset) == (200, content_type, "utf-8")
    assert await response.read() == installed(name)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_unchanged_file_is_not_sent_again(gateway_client, encoding):
    """A matching ETag is answered with 304, and each content encoding has an ETag of its own."""
    client = await gateway_client()
    headers = {"Accept-Encoding": encoding}
    response = await client.get("/static/roomcast.js", headers=headers)
    tag = response.headers["ETag"]
    assert response.headers["Cache-Control"] == "public, no-cache"
    for known, status in ((tag, 304), (f'"other", W/{tag}', 304), ("*", 304), ('"other"', 200)):
        headers["If-None-Match"] = known
        response = await client.get("/static/roomcast.js", headers=headers)
        assert (response.status, response.headers["ETag"]) == (status, tag)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert (await response.read() == b"") == (status == 304)
    headers = {"If-None-Match": tag, "Accept-Encoding": "identity" if encoding == "gzip" else "gzip"}
    response = await client.get("/static/roomcast.js", headers=headers)
    assert response.status == 200


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        *[("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.000, br", False), ("br", False)],
        (f"gzip{',' * 8000}", True),
        (f"{',' * 8000}gzip", False),
    ],
)
async def test_gzip_is_used_if_the_client_accepts_it(gateway_client, accepted, zipped):
    """The body is compressed only for clients that name gzip with a weight above 0."""
    client = await gateway_client()
    headers = {"Accept-Encoding": accepted}
    response = await client.get("/static/roomcast.js", headers=headers, auto_decompress=False)
    body = await response.read()
    assert (response.headers.get("Content-Encoding") == "gzip") == zipped
    assert response.headers["Vary"] == "Accept-Encoding"
    assert (gzip.decompress(body) if zipped else body) == installed("roomcast.js")


async def test_other_files_of_the_package_are_not_served(gateway_client):
    """Only the files in the table have a route."""
    client = await gateway_client()
    for name in ("__init__.py", "..%2Fstatic%2Froomcast.js", "src/index.js", ""):
        response = await client.session.get(url(client, f"/static/{name}"))
        assert response.status == 404


def test_the_client_is_small():
    """The minified bundle fits into the first round trip of TCP, which is 14.6 KB with its headers."""
    assert len(gzip.compress(installed("roomcast.js"))) <= 12 * 1024


def test_the_bundle_is_ascii():
    """A page in another encoding than UTF-8 may contain the bundle, and a data URL needs Latin-1."""
    assert installed("roomcast.js").isascii()


def test_bundlers_find_nothing_to_process():
    """The bundle has no expression that bundlers replace with a path or read as the name of another file."""
    bundle = installed("roomcast.js").decode()
    for expression in ("import.meta", "import(", "require(", "document.currentScript", "__dirname", "process.env"):
        assert expression not in bundle


def test_the_source_map_has_the_current_sources():
    """Every file in static/src is in the source map, unchanged: otherwise run `npm run build`."""
    source_map = json.loads(installed("roomcast.js.map"))
    embedded = dict(zip(source_map["sources"], source_map["sourcesContent"], strict=True))
    sources = {f"src/{path.name}": path.read_text() for path in (ROOT / "static" / "src").iterdir()}
    del sources["src/constants.js"]  # the build inserts its numbers where they are used, so nothing of the file is left
    assert embedded == sources
    assert installed("roomcast.js").endswith(b"\n//# sourceMappingURL=roomcast.js.map")


def find_builder(name: str) -> str | None:
    """Return the program on the PATH or at NODE_PATH, if it has the pinned version: others differ in their output."""
    found = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{MODULES / '.bin'}")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout.split()[-1]
    return found if version == PACKAGE["devDependencies"][name] else None


BUILDERS = {name: find_builder(name) for name in PACKAGE["devDependencies"]}

if all(BUILDERS.values()):

    def test_the_bundle_is_what_the_sources_build(tmp_path):
        """`npm run build` reproduces the committed bundle and its source map byte by byte."""
        shutil.copytree(ROOT / "static" / "src", tmp_path / "static" / "src")
        for step in PACKAGE["scripts"]["build"].split(" && "):
            name, *options = shlex.split(step)
            subprocess.run([str(BUILDERS[name]), *options], cwd=tmp_path, check=True, capture_output=True, timeout=60)
        for name in ("roomcast.js", "roomcast.js.map"):
            assert (tmp_path / "static" / name).read_bytes() == installed(name)


def test_every_public_name_is_documented():
    """The types document each option and each public method."""
    types = installed("roomcast.d.ts").decode()
    defaults = (ROOT / "static" / "src" / "options.js").read_text()
    defaults = defaults[defaults.index("export const DEFAULTS") : defaults.index("/** The smallest")]
    options = re.findall(r"^  (\w+):", defaults, re.MULTILINE)
    assert len(options) > 10
    documented = types[types.index("export interface Options") : types.index("export const DEFAULTS")]
    assert [name for name in options if f"  {name}?:" not in documented] == []
    client = (ROOT / "static" / "src" / "chat_client.js").read_text()
    methods = set(re.findall(r"^  (\w+)\(.*\) {$", client, re.MULTILINE)) - {"constructor"}
    described = types[types.index("export class ChatClient") :]
    assert {"connect", "close", "on", "off", "joinRoom", "leaveRoom", "sendMessage", "send"} <= methods
    assert [name for name in methods if f"  {name}(" not in described and f"  {name}<" not in described] == []
