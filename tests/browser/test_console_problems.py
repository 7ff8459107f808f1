"""The problems of plugins in the console of ``roomcast dev``, in Chromium."""

import json
from pathlib import Path

import pytest
from console_pages import browser, visit
from playwright.async_api import expect
from shell import Process

__all__ = ["browser", "visit"]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PLUGIN = '"""A plugin."""\n\nfrom roomcast import Plugin\n\ndemo = Plugin("demo")\n'
#: How long the console may take to show a change, in milliseconds.
PATIENCE = 60_000


async def test_a_broken_change_is_shown_until_the_next_one(visit, tmp_path: Path, monkeypatch):
    """The console shows the error of the plugin, and offers to reload the page after the next load."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "demo_plugin.py"
    file.write_text(PLUGIN)
    with Process("dev", "--port", "0", "--reload", "--plugin", "demo_plugin:demo", "--json") as process:
        process.wait_for("^{", process.out)
        tab = await visit(f"{json.loads(process.out[0])['url']}/console")
        problem, reloaded = tab.page.locator("#problems-plugin"), tab.page.locator("#reloaded")
        await expect(problem).to_be_hidden()
        await expect(reloaded).to_be_hidden()
        file.write_text("def broken(:\n")
        await expect(problem).to_contain_text("SyntaxError", timeout=PATIENCE)
        assert "importlib" not in await problem.inner_text()
        file.write_text(PLUGIN + "\ndemo.room('demo')\n")
        await expect(reloaded).to_be_visible(timeout=PATIENCE)
        await expect(problem).to_be_hidden()


FAILING = '''\
"""A plugin with a hook that fails."""

from roomcast import Plugin

demo = Plugin("demo")


@demo.on_join("channel")
async def welcome(ctx):
    """Fail."""
    raise KeyError(f"<b>{ctx.username}</b>")
'''


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
async def test_the_traceback_of_a_hook_is_shown(visit, tmp_path: Path, monkeypatch, width, scheme):
    """It is open and shows its end, and the rest of the page can be used at each width."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo_plugin.py").write_text(FAILING)
    with Process("dev", "--port", "0", "--plugin", "demo_plugin:demo", "--json") as process:
        process.wait_for("^{", process.out)
        tab = await visit(json.loads(process.out[0])["console"], width=width, color_scheme=scheme)
        page, problems = tab.page, tab.page.locator("#problems")
        await page.locator("#join-room").fill("channel:1")
        await page.locator("#join-room").press("Enter")
        await expect(problems).to_contain_text("KeyError: '<b>dev</b>'", timeout=PATIENCE)
        await expect(problems).to_contain_text(
            "The hook welcome (on_join of room type channel) of plugin 'demo' failed"
        )
        traceback = problems.locator("details[open] pre")
        await expect(traceback).to_contain_text('raise KeyError(f"<b>{ctx.username}</b>")')
        # The end of a long traceback is in sight, and so is the button.
        assert await traceback.evaluate("text => text.scrollTop + text.clientHeight >= text.scrollHeight - 1")
        await expect(page.locator("#problems-dismiss")).to_be_in_viewport()
        assert (await problems.bounding_box())["height"] < 900 / 2
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        await page.locator("#problems-dismiss").click()
        await expect(problems).to_be_hidden()
        await page.goto("about:blank")  # it asks a server that has stopped for nothing
