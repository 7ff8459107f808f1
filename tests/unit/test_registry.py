"""Plugins are found where packages are installed; what cannot be loaded, or claims what is taken, stops the start."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from marshmallow import Schema
from shell import refusal

from roomcast import Plugin, Refused
from roomcast.errors import PluginError
from roomcast.registry import GROUP, LoadedPlugin, Registry, load

Package = Callable[..., EntryPoint]

#: How each module of a throw-away package begins.
HEAD = """
from marshmallow import Schema, fields
from roomcast import Context, Plugin, Refused

class Data(Schema):
    pass

async def handler(ctx, data):
    pass
"""


def install(folder: Path, name: str, source: str, *, point: str | None = None, value: str | None = None) -> None:
    """Lay out the package ``name`` 1.0 as an installer does: a module, and a dist-info folder with an entry point."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{point or module} = {value or f'{module}:plugin'}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Install throw-away packages for one test; returns the entry point as Python finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def add(name: str, source: str, **point: str) -> EntryPoint:
        install(tmp_path, name, source, **point)
        return next(one for one in entry_points(group=GROUP) if one.dist is not None and one.dist.name == name)

    yield add
    for module in set(sys.modules) - before:
        del sys.modules[module]


def reason() -> str:
    """Load what is installed, and return why that is refused."""
    with pytest.raises(PluginError) as stopped:
        load()
    return str(stopped.value)


# What loads.


def test_what_is_installed_is_loaded(package):
    """A package's plugin stands after the built-in ones, with where it came from; what it declares is found."""
    package(
        "acme-deploy",
        """
        plugin = Plugin("deploy")
        plugin.room("environment")
        plugin.event("deploy.finished")(Data)
        plugin.command("deploy.rollback", Data)(handler)
        """,
        point="anything",
    )
    registry = load()
    assert next(iter(registry.plugins)) == "core"
    assert {"chat", "project", "task"} < set(list(registry.plugins)[:-1])
    loaded = list(registry)[-1]
    assert (loaded.plugin.name, loaded.distribution, loaded.entry_point) == ("deploy", "acme-deploy 1.0", "anything")
    assert registry.owner("event", "deploy.finished") == "deploy"
    assert registry.owner("command", "deploy.rollback") == "deploy"
    assert registry.owner("room type", "environment") == "deploy"
    assert registry.room("environment:prod").type == "environment"
    assert registry.event("deploy.finished") is registry.event(sys.modules["acme_deploy"].Data)


def test_built_in_plugins_come_first(package):
    """Whatever an entry point is called, a conflict is laid to the newcomer."""
    package("a-first", 'plugin = Plugin("first")', point="a")
    assert list(load().plugins)[-1] == "first"


def test_entry_points_of_other_groups_are_left_alone(package, tmp_path):
    """A package that offers other things to other programs is not even imported."""
    package("tidy", "raise SystemExit")
    (tmp_path / "tidy-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\ntidy = tidy:main\n")
    assert "tidy" not in load().plugins


def test_given_entry_points_are_all_that_is_loaded(package):
    """Then nothing else is looked for."""
    point = package("alone", 'plugin = Plugin("alone")')
    assert list(load([point]).plugins) == ["core", "alone"]
    assert list(load([]).plugins) == ["core"]


def test_events_are_found_by_type_or_schema():
    """What nobody declared is refused, with a hint where to look."""
    registry = Registry()
    assert registry.event("notification.new").type == "notification.new"

    class Unknown(Schema):
        pass

    for unknown in ("deploy.finished", Unknown):
        with pytest.raises(Refused, match="`roomcast plugins` lists them") as refused:
            registry.event(unknown)
        assert refused.value.code == "unknown_type"


def test_an_unknown_room_type_is_refused_with_those_that_there_are():
    """The sentence lists them."""
    with pytest.raises(Refused, match="there are: channel, user") as refused:
        Registry([LoadedPlugin(_channels(), "test", "channels")]).room("environment:prod")
    assert refused.value.code == "unknown_room_type"


def _channels() -> Plugin:
    plugin = Plugin("channels")
    plugin.room("channel")
    return plugin


# Two that claim one thing.

CLAIMS = {
    "command 'ship'": 'plugin.command("ship", Data)(handler)',
    "event 'shipped'": 'plugin.event("shipped")(Data)',
    "room type 'ship'": 'plugin.room("ship")',
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_two_packages_that_claim_one_type_stop_the_start(package, claim):
    """The sentence names both packages, both entry points and both plugins, and says what to do."""
    package("one", f"plugin = Plugin('uno')\n{CLAIMS[claim]}", point="p1")
    package("two", f"plugin = Plugin('due')\n{CLAIMS[claim]}", point="p2")
    assert reason() == (
        f"{claim} is declared twice: by plugin 'uno' (package 'one 1.0', entry point 'p1') and by plugin 'due' "
        "(package 'two 1.0', entry point 'p2'). Rename one, or uninstall its package."
    )


def test_two_packages_that_claim_one_plugin_name_stop_the_start(package):
    """The name is in paths and messages, and must say one thing."""
    package("one", "plugin = Plugin('ship')")
    package("two", "plugin = Plugin('ship')")
    said = reason()
    assert said.startswith("the plugin name 'ship' is declared twice: ")
    assert "package 'one 1.0', entry point 'one'" in said
    assert "package 'two 1.0', entry point 'two'" in said


@pytest.mark.parametrize(
    ("claim", "taken", "owner"),
    [
        ('plugin.event("message")(Data)', "event 'message'", "chat"),
        ('plugin.command("send_message", Data)(handler)', "command 'send_message'", "chat"),
        ('plugin.room("project")', "room type 'project'", "project"),
    ],
)
def test_what_a_built_in_plugin_has_is_taken(package, claim, taken, owner):
    """It is loaded, and refused, as any other."""
    package("greedy", f"plugin = Plugin('greedy')\n{claim}")
    said = reason()
    assert said.startswith(f"{taken} is declared twice: by plugin {owner!r} (package 'roomcast ")
    assert f"entry point {owner!r}) and by plugin 'greedy' (package 'greedy 1.0', entry point 'greedy')" in said


@pytest.mark.parametrize(
    "claim",
    [
        *(f'plugin.command("{type}", Data)(handler)' for type in ("ping", "join_room", "leave_room", "refresh_token")),
        *(f'plugin.event("{type}")(Data)' for type in ("connected", "error", "pong", "joined_room", "left_room")),
        *(f'plugin.event("{type}")(Data)' for type in ("reply", "resync", "user_joined", "notification.new")),
        'plugin.room("user")',
    ],
)
def test_what_roomcast_itself_says_is_taken(package, claim):
    """No plugin can speak in the gateway's name, or listen in its place."""
    package("greedy", f"plugin = Plugin('greedy')\n{claim}")
    said = reason()
    assert "by plugin 'core' (roomcast itself) and by plugin 'greedy' (package 'greedy 1.0'" in said
    assert said.endswith("Give it another name.")


def test_the_name_core_is_taken(package):
    """There is one core."""
    package("greedy", "plugin = Plugin('core')")
    assert reason().startswith("the plugin name 'core' is declared twice: by plugin 'core' (roomcast itself)")


# What cannot be loaded.

BROKEN = {
    "1 / 0": "could not be imported: ZeroDivisionError: division by zero.",
    "import no_such_module_anywhere": "could not be imported: ModuleNotFoundError: No module named "
    "'no_such_module_anywhere'.",
    "raise SystemExit(0)": "could not be imported: SystemExit: 0.",
    "raise ValueError": "could not be imported: ValueError.",
    "def": "could not be imported: SyntaxError: invalid syntax",
    "": "could not be imported: AttributeError: module 'broken' has no attribute 'plugin'.",
    "plugin = Plugin": "is a type, not a roomcast.Plugin.",
    "plugin = {'name': 'broken'}": "is a dict, not a roomcast.Plugin.",
    "plugin = None": "is a NoneType, not a roomcast.Plugin.",
    "plugin = Plugin('Not a name')": "a plugin's name is a word like 'deploy', not 'Not a name'.",
    "plugin = Plugin('p'); plugin.event('p.done')(dict)": "event p.done of plugin 'p': <class 'dict'> is not a "
    "marshmallow Schema class; declare one with `class Name(Schema):`.",
    "plugin = Plugin('p'); plugin.command('p.do', Data())(handler)": "is not a marshmallow Schema class; declare one "
    "with `class Name(Schema):`.",
    "plugin = Plugin('p'); plugin.command('p.do', Data)(lambda ctx, data: None)": "the handler of command 'p.do' must "
    "be an `async def` function.",
    "plugin = Plugin('p'); plugin.room('place')(lambda ctx, id: True)": "the rule of room type 'place' must be an "
    "`async def` function.",
    "plugin = Plugin('p'); plugin.lifespan(handler)": "the lifespan of plugin 'p' must be an `async def` function with "
    "one yield.",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_package_that_cannot_be_loaded_stops_the_start(package, source):
    """The sentence names the package, the entry point with what it points to, and the reason."""
    package("broken", source, point="point")
    said = reason()
    assert said.startswith("plugin from package 'broken 1.0', entry point 'point' (broken:plugin)")
    assert BROKEN[source] in said
    assert ".." not in said


def test_an_entry_point_to_nowhere_stops_the_start(package):
    """A module that the package has forgotten."""
    package("broken", "", value="broken_elsewhere:plugin")
    assert "(broken_elsewhere:plugin) could not be imported: ModuleNotFoundError" in reason()


def test_an_event_for_rooms_that_nobody_has_stops_the_start(package):
    """It could never be published; a room type of another package will do."""
    package("one", "plugin = Plugin('one')\nplugin.event('done', rooms=('place', 'user'))(Data)")
    assert reason() == (
        "event 'done' of plugin 'one' (package 'one 1.0', entry point 'one') goes to rooms of type 'place', and no "
        "plugin declares one. Correct its name, or install the plugin that has it."
    )
    package("two", "plugin = Plugin('two')\nplugin.room('place')")
    assert load().events["done"].rooms == ("place", "user")


# As the operator sees it.


@pytest.mark.slow
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("plugins",)], ids=["serve", "plugins"])
def test_the_start_stops_with_one_sentence(tmp_path, command):
    """No traceback, no half a server: the sentence, and status 2."""
    install(tmp_path, "broken", "1 / 0")
    said = refusal(*command, PYTHONPATH=str(tmp_path), JWT_SECRET="x" * 32)
    assert said == (
        "plugin from package 'broken 1.0', entry point 'broken' (broken:plugin) could not be imported: "
        "ZeroDivisionError: division by zero."
    )


@pytest.mark.parametrize(
    ("docstring", "given", "shown"),
    [
        ('"""Ships it.\n\nAnd more."""', "", "Ships it."),
        ('"""\n  Ships it.  \n"""', "", "Ships it."),
        ('"""Ships it."""', "Its own", "Its own"),
        ("", "", ""),
    ],
)
def test_a_plugin_without_a_description_gets_its_modules(
    package: Package, tmp_path: Path, docstring: str, given: str, shown: str
):
    """The first line of the docstring; a description of its own goes before."""
    point = package("roomcast-docs", "")
    (tmp_path / "roomcast_docs.py").write_text(
        f"{docstring}\nfrom roomcast import Plugin\nplugin = Plugin('docs', {given!r})\n"
    )
    assert load([point]).plugins["docs"].plugin.description == shown
