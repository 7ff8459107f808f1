"""roomcast.js in applications that are built with Vite, webpack, Next.js and esbuild, if these are installed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundlers import INSTALLED, TOOLS, build, private_data, project
from client_pages import browser, folder_server
from docs_pages import snippet
from node_tools import MODULES, NODE, has_modules, run
from paths import ROOT
from serving import running, token_for

__all__ = ["browser"]

CLIENT = files("roomcast.static").joinpath("roomcast.js").read_text()
#: Makes clients with copies of roomcast.js in three folders. `report(url, token)` connects one of them.
SCRIPT = """
import { client } from "./client.js";
import { ChatClient } from "./lib/roomcast.js";
import * as copy from "../roomcast.js";

const attempt = (Client) => {
  try {
    return new Client("a token").state;
  } catch (error) {
    return String(error);
  }
};

globalThis.report = async (url, token) => {
  const connecting = new ChatClient(token, { url });
  const { type } = await connecting.connect();
  connecting.close();
  return { type, state: client.state, errors: [client.constructor, ChatClient, copy.ChatClient].map(attempt) };
};
"""
#: What the script of the application needs in Next.js: components, which are also rendered on the build machine.
NEXT = {
    "app/layout.jsx": "export default ({ children }) => <html><body>{children}</body></html>;",
    "app/page.jsx": """
"use client";
import "../src/index.js";
import { ChatClient } from "../roomcast.js";

const client = new ChatClient("a token", { url: "/rt" });
export default () => <p>{client.state}</p>;
""",
}
SOURCES = {
    "package.json": "{}",
    "roomcast.js": CLIENT,
    "src/index.js": SCRIPT,
    "src/client.js": snippet("a bundled client"),
    "src/roomcast.js": CLIENT,
    "src/lib/roomcast.js": CLIENT,
    "src/lib/inner/unused.js": "export const unused = 1;",
}
#: How bundlers are asked to publish files: the reason for this test.
GREEDY = "const name = globalThis.name; export const url = new URL(`../${name}`, import.meta.url).href;"

GREEDY_SCRIPT = 'import { url } from "./lib/greedy.js"; console.log(url, import.meta.url);'


class Application(NamedTuple):
    """An application: the tool that built it, the folder of its files, and the messages of the tool."""

    tool: str
    output: Path
    messages: str


#: Translates a file for old browsers. The arguments are the folder of the Node modules, the file, and the result.
TRANSLATE = """
const { readFileSync, writeFileSync } = require("node:fs");
const [modules, source, target] = process.argv.slice(1);
const { transpileModule, ModuleKind, ScriptTarget } = require(`${modules}/typescript`);
const compilerOptions = { module: ModuleKind.CommonJS, target: ScriptTarget.ES2015 };
writeFileSync(target, transpileModule(readFileSync(source, "utf8"), { compilerOptions }).outputText);
"""


#: A program that uses the translated client as the module ``client``.
TRANSLATED = """
globalThis.report = async (url, token) => {
  const connecting = new client.ChatClient(token, { url });
  const { type } = await connecting.connect();
  connecting.close();
  return { type, names: [client.ChatClient.name, client.RoomcastError.name] };
};
"""


def test_ci_installs_every_module():
    """``.ci/run`` installs what the tests in this folder need: without a module, its tests are not collected."""
    installed = (ROOT / ".ci" / "run").read_text()
    needed = {"typescript", "vue", "pinia", *(module for modules in TOOLS.values() for module in modules)}
    assert '"${builders[@]}"' in installed  # the modules that package.json pins
    needed -= json.loads((ROOT / "package.json").read_text())["devDependencies"].keys()
    assert [module for module in needed if not re.search(rf'[ ("]{module}@', installed)] == []


def evaluate_in_node(program: str, expression: str, folder: Path) -> dict[str, Any]:
    """Return the value that the promise ``expression`` resolves to, after the statements of ``program``."""
    code = f"{program}\n{expression}.then((value) => console.log(JSON.stringify(value)));"
    found: dict[str, Any] = json.loads(run(str(NODE), "-e", code, cwd=folder).stdout)
    return found


if INSTALLED:

    @pytest.fixture(scope="module", params=INSTALLED)
    def application(request: pytest.FixtureRequest) -> Iterator[Application]:
        """Build the application with each tool."""
        with project(SOURCES | (NEXT if request.param == "next" else {})) as folder:
            yield Application(request.param, *build(request.param, folder))

    def test_application_contains_only_what_it_imports(application):
        """The built application has no private file of the project and no path of the build machine."""
        assert private_data(application.output) == []
        if application.tool != "next":  # It writes many files of its own.
            names = [path.name for path in application.output.rglob("*") if path.is_file()]
            # webpack writes the first comment of roomcast.js into a file.
            assert sorted(Path(name).suffix for name in names if not name.endswith(".LICENSE.txt")) == [".html", ".js"]
            assert "warning" not in application.messages.lower()

    @pytest.mark.browser
    @pytest.mark.asyncio(loop_scope="module")
    async def test_application_connects_to_its_url_only(application, browser):
        """The client of the application connects to its url. Without one, the constructor throws an error."""
        async with folder_server(application.output) as origin, running(allowed_origins=(origin,)) as server:
            call = f"report('http://127.0.0.1:{server.port}', '{token_for()}')"
            if application.tool == "esbuild-cjs":
                found = await asyncio.to_thread(evaluate_in_node, 'require("./index.js")', call, application.output)
            else:
                page = await browser.new_page()
                await page.goto(f"{origin}/index.html")
                await page.wait_for_function("Boolean(globalThis.report)")
                found = await page.evaluate(call)
                await page.close()
        errors = found.pop("errors")
        assert found == {"type": "connected", "state": "closed"}
        assert [error.split(":")[:2] for error in errors] == [["TypeError", " ChatClient needs the option url"]] * 3


if has_modules("typescript"):

    async def test_translated_client_connects(serve, tmp_path):
        """A client whose class fields are turned into assignments connects, as in Next.js with webpack."""
        server = await serve()
        (tmp_path / "roomcast.js").write_text(CLIENT)
        run(str(NODE), "-e", TRANSLATE, str(MODULES), "roomcast.js", "client.cjs", cwd=tmp_path)
        program = f'const client = require("./client.cjs");{TRANSLATED}'
        call = f"report('http://127.0.0.1:{server.port}', '{token_for()}')"
        found = await asyncio.to_thread(evaluate_in_node, program, call, tmp_path)
        assert found == {"type": "connected", "names": ["ChatClient", "RoomcastError"]}


if "webpack" in INSTALLED:

    def test_published_files_are_found():
        """The check of this module finds the files and the path that webpack publishes if a script asks for them."""
        with project({"src/index.js": GREEDY_SCRIPT, "src/lib/greedy.js": GREEDY}) as folder:
            found = private_data(build("webpack", folder)[0])
        assert len(found) > 5
        assert "main.js" in found
