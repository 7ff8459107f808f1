"""``roomcast plugin check``: each kind of problem is found at its place, and correct plugins have none."""

import json
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from invoking import invoke

from roomcast.cli.blocking_calls import find_blocking_calls
from roomcast.cli.unawaited_calls import METHODS, find_unawaited_calls

GOOD = '''
"""A plugin without problems."""

import asyncio
import time

from marshmallow import Schema, fields, validate
from roomcast import Context, Plugin

polls = Plugin("checked")


@polls.room("checked")
async def rule(ctx: Context, room_id: str) -> bool:
    """Allow all users."""
    return True


@polls.event("checked.done")
class Done(Schema):
    """It is done."""

    names = fields.List(fields.String(), validate=validate.Length(max=5))


@polls.command("checked.do", Done)
async def do(ctx: Context, data: dict) -> None:
    """Do it."""
    await asyncio.sleep(0)
    await ctx.in_thread(time.sleep, 0)
'''


@pytest.fixture
def check(tmp_path: Path, monkeypatch):
    """Return a function that writes a module, checks it, and returns the status and the problems."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = []

    def run(source: str, name: str = "checked_module"):
        names.append(name)
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(source)
        done = invoke("plugin", "check", f"{name}:polls", "--json")
        assert done.exit_code in (0, 1), done.stderr
        document = json.loads(done.stdout)
        assert document["ok"] is (done.exit_code == 0)
        return document["ok"], document["problems"]

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield run
    for name in names:
        sys.modules.pop(name, None)


def test_a_plugin_without_problems(check):
    """Nothing is found."""
    assert check(GOOD) == (True, [])


@pytest.mark.parametrize(
    ("old", "new", "level", "words"),
    [
        ("await asyncio.sleep(0)", "time.sleep(1)", "FAIL", "async def do calls time.sleep, which blocks all clients"),
        ('"""Do it."""', "", "WARN", "The command 'checked.do' has no description"),
        ('    """It is done."""\n', "", "WARN", "The event 'checked.done' has no description"),
        ('    """Allow all users."""\n', "", "WARN", "The room type 'checked' has no description"),
        (
            ", validate=validate.Length(max=5)",
            "",
            "WARN",
            "The list names of the event 'checked.done' may have any length",
        ),
        ("async def do(ctx: Context, data: dict)", "async def do(ctx: Context)", "FAIL", "is called as do(ctx, data)"),
        ("await ctx.in_thread", "ctx.in_thread", "FAIL", "do calls ctx.in_thread without waiting, so nothing happens"),
        ("import time", "import tyme", "FAIL", "No module named 'tyme'"),
        ("polls = Plugin(", "polls = dict(", "FAIL", "could not be imported"),
        ('"checked.do"', '"Checked.do"', "FAIL", "checked.do"),
        ('"checked.do"', '"send_message"', "FAIL", "'send_message' is declared twice"),
        ('@polls.event("checked.done")', '@polls.event("checked.done", rooms=("nowhere",))', "FAIL", "'nowhere'"),
    ],
)
def test_a_problem(check, old, new, level, words):
    """The problem is reported with its level, and decides about the status."""
    assert GOOD.count(old) >= 1
    is_ok, problems = check(GOOD.replace(old, new))
    assert is_ok is (level == "WARN")
    assert any(problem["level"] == level and words.lower() in problem["sentence"].lower() for problem in problems), (
        problems
    )


def test_a_syntax_error(check):
    """It is reported with the file and the line."""
    is_ok, (problem,) = check(GOOD + "\ndef broken(:\n")
    assert not is_ok
    assert (problem["file"], problem["line"]) == ("checked_module.py", GOOD.count("\n") + 2)


def test_a_hook_for_an_unknown_type(check):
    """The hook is named, with its target."""
    hook = '\n\n@polls.before_command("checked.dont")\nasync def hook(ctx, data):\n    """Hook."""\n'
    is_ok, (problem,) = check(GOOD + hook)
    assert not is_ok
    assert "checked.dont" in problem["sentence"]


def test_the_package_in_the_current_directory(tmp_path, monkeypatch):
    """Its entry points are checked. Missing tests are a warning, a missing entry point is an error of the input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "pyproject.toml in the current directory cannot be read" in invoke("plugin", "check").stderr
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    done = invoke("plugin", "check")
    assert done.exit_code == 2
    assert '[project.entry-points."roomcast.plugins"]' in done.stderr
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write('[project.entry-points."roomcast.plugins"]\nchecked = "checked_package:polls"\n')
    (tmp_path / "checked_package.py").write_text(GOOD)
    done = invoke("plugin", "check")
    sys.modules.pop("checked_package")
    assert done.exit_code == 0
    assert done.stdout.startswith("WARN  There are no tests")


@pytest.mark.parametrize("text", ["roomcast_polls", ":polls", "a b:c", "module:"])
def test_an_argument_of_another_form(text):
    """The error shows the form."""
    done = invoke("plugin", "check", text)
    assert done.exit_code == 2
    assert "roomcast_polls:polls" in done.stderr


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("import time\nasync def f():\n    time.sleep(1)", "time.sleep"),
        ("from time import sleep as nap\nasync def f():\n    nap(1)", "time.sleep"),
        ("import time as t\nasync def f():\n    if x:\n        [t.sleep(1) for _ in y]", "time.sleep"),
        ("import requests\nasync def f():\n    requests.get('x').json()", "requests.get"),
        ("import urllib.request\nasync def f():\n    urllib.request.urlopen('x')", "urllib.request.urlopen"),
        ("from urllib.request import urlopen\nasync def f():\n    urlopen('x')", "urllib.request.urlopen"),
        ("import subprocess as s\nasync def f():\n    s.run(['x'])", "subprocess.run"),
        ("async def f():\n    with open('x') as file:\n        pass", "open"),
        ("async def f(path):\n    path.read_text()", "read_text"),
        ("class A:\n    async def f(self):\n        import os\n        os.system('x')", "os.system"),
    ],
)
def test_a_blocking_call_is_found(body, name):
    """Imports under other names, nested blocks and methods are followed."""
    (call,) = find_blocking_calls(body)
    assert (call.name, call.function) == (name, "f")


@pytest.mark.parametrize(
    "body",
    [
        "import time\ndef f():\n    time.sleep(1)",
        "import time\nasync def f(ctx):\n    await ctx.in_thread(time.sleep, 1)",
        "import time\nasync def f():\n    def g():\n        time.sleep(1)\n    await to_thread(g)",
        "import time\nasync def f():\n    await to_thread(lambda: time.sleep(1))",
        "import time\nasync def f():\n    time.monotonic()",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
        "async def f(store):\n    await store.open('x')",
        "from mine import open\nasync def f():\n    open('x')",
        "from . import time\nasync def f():\n    time.sleep(1)",
        dedent("async def f(time):\n    time.sleep(1)"),
    ],
)
def test_other_calls_are_not_found(body):
    """Plain functions, functions that run in threads, and other functions of the same name do not count."""
    assert find_blocking_calls(body) == []


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("async def f(ctx, data):\n    ctx.publish(E, data)", "await ctx.publish(…)"),
        ("async def f(service):\n    if True:\n        service.kick(1, 'a:1')", "await service.kick(…)"),
        ("async def f(c: Context[X], d):\n    c.publish(E, d)", "await c.publish(…)"),
        ("async def f(c: 'Service', d):\n    c.notify(1, E, d)", "await c.notify(…)"),
        ("def f(ctx, data):\n    ctx.publish(E, data)", "ctx.from_thread(ctx.publish, …)"),
        ("async def f(ctx, data):\n    await ctx.publish(E, data)", None),
        ("async def f(ctx, data):\n    waiting = ctx.publish(E, data)\n    await waiting", None),
        ("async def f(ctx, data):\n    ctx.broadcast(E, data)", None),
        ("async def f(ctx, data):\n    ctx.spawn(ctx.publish(E, data))", None),
        ("async def f(ctx: Other, data):\n    ctx.publish(E, data)", None),
        ("async def f(queue):\n    queue.publish(1)", None),
        ("def f(ctx, data):\n    ctx.from_thread(ctx.publish, E, data)", None),
    ],
)
def test_calls_that_are_not_awaited(function, found):
    """Statements that call a coroutine method of a context or service are found, in nested blocks too."""
    assert [call.instead for call in find_unawaited_calls(function)] == ([] if found is None else [found])


def test_the_methods_that_must_be_awaited():
    """They are those of the documentation with ``await``, and no others."""
    assert {"publish", "publish_many", "notify", "members", "since", "policy_allows"} <= METHODS
    assert not {"broadcast", "send", "withdraw", "spawn", "joined", "claims_allow", "about"} & METHODS
