"""The hook for React in docs/javascript-client.md, in a real Chromium, if the Node modules are installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from browser import PATIENCE, chromium
from client_pages import ROOM, folder_server, publish
from docs_pages import snippet
from node_tools import MODULES, NODE, has_modules, run
from playwright.async_api import Page
from serving import running, token_for
from waiting import wait_until

from roomcast.web.server import Server

SCRIPT = """
import { StrictMode, createElement, useState } from "react";
import { createRoot } from "react-dom/client";
import { client } from "./client.js";
import { useRoom } from "./useRoom.js";

globalThis.sent = [];
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (text) {
  sent.push(JSON.parse(text).type);
  send.call(this, text);
};

function Messages({ name }) {
  const { room, messages } = useRoom(name);
  const lines = messages.map(({ id, key, data }) => createElement("p", { key: key ?? id }, data.content));
  return [createElement("button", { key: "button", onClick: () => room.send("sent") }, "Send"), ...lines];
}

function App() {
  const [isShown, show] = useState(true);
  globalThis.show = show;
  return isShown ? [1, 2].map((n) => createElement(Messages, { key: n, name: "channel:1" })) : "nothing";
}

client.connect();
createRoot(document.getElementById("app")).render(createElement(StrictMode, null, createElement(App)));
"""
BUILD = """
import { createRequire } from "node:module";
const modules = process.argv[2];
await createRequire(`${modules}/x.js`)("esbuild").build({
  entryPoints: ["src/index.js"], bundle: true, format: "esm", outdir: "output", nodePaths: [modules],
  define: { "process.env.NODE_ENV": '"development"' },
});
"""
PAGE = (
    '<!doctype html><link rel="icon" href="data:,"><div id="app"></div><script type="module" src="index.js"></script>'
)


@asynccontextmanager
async def application(folder: Path) -> AsyncIterator[tuple[Page, Server, list[str]]]:
    """Build and open the application. Yield its page, its server, and the warnings and errors of the page."""
    (folder / "output").mkdir()
    problems: list[str] = []
    async with folder_server(folder / "output") as origin, running(allowed_origins=(origin,)) as server:
        url = f"http://127.0.0.1:{server.port}"
        sources = {
            "build.mjs": BUILD,
            "output/index.html": PAGE,
            "src/index.js": SCRIPT,
            "src/roomcast.js": files("roomcast.static").joinpath("roomcast.js").read_text(),
            "src/client.js": snippet("a bundled client").replace("https://chat.example.com", url),
            "src/useRoom.js": snippet("a React hook"),
        }
        for name, text in sources.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        run(str(NODE), "build.mjs", str(MODULES), cwd=folder)
        async with chromium() as browser:
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("console", lambda logged: logged.type in ("warning", "error") and problems.append(logged.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.route("**/my/token", lambda route: route.fulfill(body=token_for()))
            await page.goto(f"{origin}/index.html")
            yield page, server, problems


if has_modules("react", "react-dom", "esbuild"):

    @pytest.mark.browser
    async def test_hook_works_in_strict_mode(tmp_path):
        """Two components, each mounted twice, show the messages. They join the room once and leave it once."""
        async with application(tmp_path) as (page, server, problems):
            await wait_until(lambda: ROOM in server.gateway.delivery.rooms)
            await publish(server, "Good morning")
            await page.wait_for_function("document.querySelectorAll('p').length === 2")
            await page.get_by_role("button").first.click()
            await page.wait_for_function("document.querySelectorAll('p').length === 4")
            assert await page.evaluate("sent.filter((type) => /room/.test(type))") == ["join_room"]
            await page.evaluate("show(false)")
            await wait_until(lambda: ROOM not in server.gateway.delivery.rooms)
            await page.evaluate("show(true)")
            await page.wait_for_function("document.querySelectorAll('p').length === 4")
            assert await page.evaluate("sent.filter((type) => /room/.test(type))") == [
                "join_room",
                "leave_room",
                "join_room",
            ]
            assert problems == []
