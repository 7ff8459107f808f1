"""The examples for Vue and Pinia in docs/javascript-client.md in a real Chromium, if the Node modules are installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from browser import PATIENCE, chromium
from client_pages import ROOM, folder_server, publish
from docs_pages import snippet
from node_tools import MODULES, NODE, has_modules, run
from playwright.async_api import Page
from serving import running, token_for
from waiting import wait_until

from roomcast.web.server import Server

COMPONENT = snippet("a Vue component").replace("channel:456", ROOM)
SCRIPT = """
import { createPinia, defineStore } from "pinia";
import * as vue from "vue";
import Room from "./Room.vue";
import { useChat } from "./chat.js";
import { client } from "./client.js";

client.connect();
const app = vue.createApp(Room).use(createPinia());
app.mount("#app");
const useHolder = defineStore("holder", { state: () => ({ client }) });
Object.assign(globalThis, { app, chat: useChat(), client, vue, holder: useHolder() });
"""
#: Bundles ``src/index.js`` with the Node modules in argv[2]. Vue's own compiler translates the components.
BUILD = """
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const modules = process.argv[2];
const require = createRequire(`${modules}/x.js`);
const { parse, compileScript } = require("vue/compiler-sfc");
const components = {
  name: "components",
  setup(build) {
    build.onLoad({ filter: /[.]vue$/ }, async ({ path }) => {
      const { descriptor } = parse(await readFile(path, "utf8"));
      return { contents: compileScript(descriptor, { id: "app", inlineTemplate: true }).content };
    });
  },
};
await require("esbuild").build({
  entryPoints: ["src/index.js"], bundle: true, format: "esm", outdir: "output",
  nodePaths: [modules], plugins: [components],
  define: {
    "process.env.NODE_ENV": '"development"',
    __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
});
"""
PAGE = (
    '<!doctype html><link rel="icon" href="data:,"><div id="app"></div><script type="module" src="index.js"></script>'
)


def build(folder: Path, server: Server) -> None:
    """Build the application in ``folder``, as a client of ``server``, into the folder ``output`` in it."""
    sources = {
        "build.mjs": BUILD,
        "output/index.html": PAGE,
        "src/index.js": SCRIPT,
        "src/roomcast.js": files("roomcast.static").joinpath("roomcast.js").read_text(),
        "src/client.js": snippet("a bundled client").replace(
            "https://chat.example.com", f"http://127.0.0.1:{server.port}"
        ),
        "src/useRoom.js": snippet("a Vue composable"),
        "src/Room.vue": COMPONENT,
        "src/chat.js": snippet("a Pinia store"),
    }
    for name, text in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    run(str(NODE), "build.mjs", str(MODULES), cwd=folder)


@asynccontextmanager
async def application(folder: Path) -> AsyncIterator[tuple[Page, Server, list[str]]]:
    """Open the application in a browser. Yield its page, its server, and the warnings and errors of the page."""
    (folder / "output").mkdir()
    problems: list[str] = []
    async with folder_server(folder / "output") as origin, running(allowed_origins=(origin,)) as server:
        build(folder, server)
        async with chromium() as browser:
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("console", lambda logged: logged.type in ("warning", "error") and problems.append(logged.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.route("**/my/token", lambda route: route.fulfill(body=token_for()))
            await page.goto(f"{origin}/index.html")
            yield page, server, problems


async def text_of(page: Page, text: str) -> None:
    """Wait until a paragraph of the page has ``text``."""
    await page.locator("p", has_text=text).wait_for()


async def js(page: Page, expression: str) -> Any:
    """Return the value of an expression in the page. It may use ``await``."""
    return await page.evaluate(f"async () => ({expression})")


if has_modules("vue", "pinia", "esbuild"):

    @pytest.mark.browser
    async def test_examples_show_the_state_and_the_messages(tmp_path):
        """The component shows the state and the messages of its room, sends, and leaves the room with its end."""
        async with application(tmp_path) as (page, server, problems):
            await text_of(page, "joined")
            await wait_until(lambda: ROOM in server.gateway.delivery.rooms)
            await publish(server, "Good morning")
            await text_of(page, "bob: Good morning")
            await page.get_by_role("button").click()
            await text_of(page, "alice: Hello everyone!")
            contents = "chat.messages.map((event) => event.data.content)"
            assert await js(page, f"[chat.state, {contents}]") == ["open", ["Good morning", "Hello everyone!"]]
            await page.evaluate("app.unmount()")
            await wait_until(lambda: ROOM not in server.gateway.delivery.rooms)
            assert (await js(page, "await chat.join('project:1')"))["type"] == "joined_room"
            await page.evaluate("client.close()")
            assert await js(page, "chat.state") == "closed"
            assert problems == []

    @pytest.mark.browser
    async def test_reactive_client_works(tmp_path):
        """Vue's proxies of the client, also in the state of a Pinia store, join and send as the client does."""
        async with application(tmp_path) as (page, _, problems):
            await text_of(page, "joined")
            for wrapped in (
                "vue.reactive(client)",
                "vue.reactive({ client }).client",
                "vue.ref(client).value",
                "holder.client",
            ):
                assert await js(page, f"globalThis.wrapped = {wrapped}, vue.isReactive(wrapped)") is True
                assert (await js(page, "await wrapped.joinRoom('project:1')"))["type"] == "joined_room"
                assert (await js(page, "await wrapped.sendMessage('project:1', 'a')"))["type"] == "sent"
                state = "[wrapped.state, wrapped.user.username, wrapped.rooms.includes('project:1')]"
                assert await js(page, state) == ["open", "alice", True]
                assert (await js(page, "await wrapped.leaveRoom('project:1')"))["type"] == "left_room"
            await page.evaluate("wrapped.close()")
            assert await js(page, "client.state") == "closed"
            assert problems == []

    @pytest.mark.browser
    async def test_reactive_room_works(tmp_path):
        """Vue's proxy of a room object sends, receives, shows the messages and leaves as the object does."""
        async with application(tmp_path) as (page, server, problems):
            await text_of(page, "joined")
            hold = "vue.reactive(client.room('project:1', { messages: true }))"
            assert await js(page, f"globalThis.room = {hold}, vue.isReactive(room)") is True
            await page.evaluate(
                "globalThis.texts = []; room.on('message', ({ data }) => texts.push(data.content)); null"
            )
            assert (await js(page, "await room.send('a')"))["type"] == "sent"
            await page.wait_for_function("texts.length === 1 && room.messages.length === 1")
            assert await js(page, "[room.state, room.name, room.hasMore, texts]") == [
                "joined",
                "project:1",
                False,
                ["a"],
            ]
            await page.evaluate("room.leave()")
            await wait_until(lambda: "project:1" not in server.gateway.delivery.rooms)
            assert problems == []
