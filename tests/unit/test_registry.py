"""Tests of ``registry``: installed plugins are loaded, and those that cannot be used stop the start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import pytest
from marshmallow import Schema
from plugin_packages import install
from shell import refusal

from roomcast import Plugin, Refused
from roomcast.errors import InvalidEvent, PluginError, SettingsError
from roomcast.registry import GROUP, LoadedPlugin, Registry, load

Package = Callable[..., EntryPoint]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Return a function that installs a package for one test, and returns its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def add(name: str, source: str, **point: str) -> EntryPoint:
        install(tmp_path, name, source, **point)
        return next(one for one in entry_points(group=GROUP) if one.dist is not None and one.dist.name == name)

    yield add
    for module in set(sys.modules) - before:
        del sys.modules[module]


def reason() -> str:
    """Load the installed plugins, and return the error that stops the start."""
    with pytest.raises(PluginError) as stopped:
        load()
    return str(stopped.value)


# Loading.


def test_an_installed_plugin_is_loaded(package) -> None:
    """The plugin follows the built-in ones, with its origin; its declarations are found."""
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


def test_built_in_plugins_are_loaded_first(package) -> None:
    """The name of the entry point does not matter, so a conflict is always reported for the other plugin."""
    package("a-first", 'plugin = Plugin("first")', point="a")
    assert list(load().plugins)[-1] == "first"


def test_entry_points_of_other_groups_are_ignored(package, tmp_path) -> None:
    """A package with entry points for other programs is not imported."""
    package("tidy", "raise SystemExit")
    (tmp_path / "tidy-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\ntidy = tidy:main\n")
    assert "tidy" not in load().plugins


def test_only_given_entry_points_are_loaded(package) -> None:
    """With given entry points, no other plugins are loaded."""
    point = package("alone", 'plugin = Plugin("alone")')
    assert list(load([point]).plugins) == ["core", "alone"]
    assert list(load([]).plugins) == ["core"]


def test_plugins_selects_and_orders(package) -> None:
    """Only the named plugins are imported, in the order of the names; a name that occurs twice counts once."""
    package("broken", "raise LookupError")
    package("acme-deploy", 'plugin = Plugin("deploy")', point="deploy")
    assert list(load(names=["task", "deploy", "chat", "task"]).plugins) == ["core", "task", "deploy", "chat"]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["chta"], "PLUGINS has 'chta', but no installed package has such a plugin; did you mean chat?"),
        (
            ["chat", "zzz"],
            "PLUGINS has 'zzz', but no installed package has such a plugin; the installed plugins are chat, ",
        ),
        (["core"], "PLUGINS has 'core', which is roomcast itself and always loaded; leave it out."),
    ],
)
def test_an_unknown_name_in_plugins(names: list[str], sentence: str) -> None:
    """It stops the start with a sentence, and proposes a similar name."""
    with pytest.raises(SettingsError) as stopped:
        load(names=names)
    assert str(stopped.value).startswith(sentence)


@pytest.mark.parametrize("requires", ["roomcast>=0.1,<1", "roomcast", "roomcast ~= 0.1"])
def test_the_required_version(package, requires: str) -> None:
    """A plugin that works with this version is loaded. A requirement without a version is malformed."""
    package("acme-deploy", f"plugin = Plugin('deploy', requires={requires!r})")
    if requires == "roomcast":
        assert "has requires='roomcast'; it must be versions like 'roomcast>=0.2,<1'" in reason()
    else:
        assert "deploy" in load().plugins


def test_another_version_is_required(package) -> None:
    """The sentence names both versions, also if the plugin uses something that this version lacks."""
    package(
        "acme-deploy",
        """
        plugin = Plugin("deploy", requires="roomcast>=77,<78")
        plugin.not_invented_yet()
        """,
    )
    assert reason() == (
        "plugin from package 'acme-deploy 1.0', entry point 'acme_deploy' (acme_deploy:plugin): plugin 'deploy' "
        f"requires roomcast>=77,<78, but this is roomcast {version('roomcast')}; install another version of one of "
        "them, for example with `pip install 'roomcast>=77,<78'`."
    )


@pytest.mark.parametrize(
    "requires",
    [">=0.1", "rumcast>=0.1", "roomcast[test]>=0.1", "roomcast>=0.1; python_version > '3'", "roomcast>=x", 1],
)
def test_a_malformed_requirement(requires: object) -> None:
    """It is refused when the plugin is created."""
    with pytest.raises(PluginError, match=r"it must be versions like 'roomcast>=0\.2,<1'"):
        Plugin("deploy", requires=requires)  # type: ignore[arg-type]


def test_events_are_found_by_type_or_schema() -> None:
    """An event that no plugin declares is refused with a hint."""
    registry = Registry()
    assert registry.event("notification.new").type == "notification.new"

    class Unknown(Schema):
        pass

    for unknown in ("deploy.finished", Unknown):
        with pytest.raises(Refused, match=r"`roomcast plugins` lists them|decorate the class") as refused:
            registry.event(unknown)
        assert refused.value.code == "unknown_type"


def test_an_unknown_room_type_is_refused() -> None:
    """The sentence lists the room types."""
    with pytest.raises(Refused, match="there are: channel, user") as refused:
        Registry([LoadedPlugin(_channels(), "test", "channels")]).room("environment:prod")
    assert refused.value.code == "unknown_room_type"


def _channels() -> Plugin:
    plugin = Plugin("channels")
    plugin.room("channel")
    return plugin


# Conflicts.

DECLARATIONS = {
    "command 'ship'": 'plugin.command("ship", Data)(handler)',
    "event 'shipped'": 'plugin.event("shipped")(Data)',
    "room type 'ship'": 'plugin.room("ship")',
}


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_a_type_that_two_packages_declare_stops_the_start(package, declaration) -> None:
    """The sentence names both packages, entry points and plugins, and what to do."""
    package("one", f"plugin = Plugin('uno')\n{DECLARATIONS[declaration]}", point="p1")
    package("two", f"plugin = Plugin('dos')\n{DECLARATIONS[declaration]}", point="p2")
    assert reason() == (
        f"{declaration} is declared twice: by plugin 'uno' (package 'one 1.0', entry point 'p1') and by plugin 'dos' "
        "(package 'two 1.0', entry point 'p2'). Rename one, or uninstall its package."
    )


def test_a_plugin_name_that_two_packages_have_stops_the_start(package) -> None:
    """Names of plugins are part of paths and messages, so they must be unique."""
    package("one", "plugin = Plugin('ship')")
    package("two", "plugin = Plugin('ship')")
    sentence = reason()
    assert sentence.startswith("the plugin name 'ship' is declared twice: ")
    assert "package 'one 1.0', entry point 'one'" in sentence
    assert "package 'two 1.0', entry point 'two'" in sentence


@pytest.mark.parametrize(
    ("declaration", "taken", "owner"),
    [
        ('plugin.event("message")(Data)', "event 'message'", "chat"),
        ('plugin.command("send_message", Data)(handler)', "command 'send_message'", "chat"),
        ('plugin.room("project")', "room type 'project'", "project"),
    ],
)
def test_types_of_built_in_plugins_cannot_be_declared_again(package, declaration, taken, owner) -> None:
    """Built-in plugins are loaded, and conflict, like any other."""
    package("greedy", f"plugin = Plugin('greedy')\n{declaration}")
    sentence = reason()
    assert sentence.startswith(f"{taken} is declared twice: by plugin {owner!r} (package 'roomcast ")
    assert f"entry point {owner!r}) and by plugin 'greedy' (package 'greedy 1.0', entry point 'greedy')" in sentence


@pytest.mark.parametrize(
    "declaration",
    [
        *(f'plugin.command("{type}", Data)(handler)' for type in ("ping", "join_room", "leave_room", "refresh_token")),
        *(f'plugin.event("{type}")(Data)' for type in ("connected", "error", "pong", "joined_room", "left_room")),
        *(f'plugin.event("{type}")(Data)' for type in ("reply", "resync", "user_joined", "notification.new")),
        'plugin.room("user")',
    ],
)
def test_types_of_roomcast_itself_cannot_be_declared(package, declaration) -> None:
    """No plugin can send frames or handle commands in the name of roomcast."""
    package("greedy", f"plugin = Plugin('greedy')\n{declaration}")
    sentence = reason()
    assert "by plugin 'core' (roomcast itself) and by plugin 'greedy' (package 'greedy 1.0'" in sentence
    assert sentence.endswith("Give it another name.")


def test_the_plugin_name_core_is_reserved(package) -> None:
    """No other plugin can be called core."""
    package("greedy", "plugin = Plugin('core')")
    assert reason().startswith("the plugin name 'core' is declared twice: by plugin 'core' (roomcast itself)")


# Plugins that cannot be loaded.

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
    "plugin = Plugin('p'); plugin.command('p.do', Data)(lambda data: None)": "the handler of command 'p.do' of plugin "
    "'p' is called as <lambda>(ctx, data), but is <lambda>(data).",
    "plugin = Plugin('p'); plugin.room('place')(lambda ctx: True)": "the rule of room type 'place' of plugin 'p' is "
    "called as <lambda>(ctx, entity_id), but is <lambda>(ctx).",
    "plugin = Plugin('p'); plugin.lifespan(handler)": "the lifespan of plugin 'p' must be an `async def` function with "
    "one yield.",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_package_that_cannot_be_loaded_stops_the_start(package, source) -> None:
    """The sentence names the package, the entry point with its value, and the reason."""
    package("broken", source, point="point")
    sentence = reason()
    assert sentence.startswith("plugin from package 'broken 1.0', entry point 'point' (broken:plugin)")
    assert BROKEN[source] in sentence
    assert ".." not in sentence


def test_an_entry_point_to_a_missing_module_stops_the_start(package) -> None:
    """An entry point to a module that the package does not have stops the start."""
    package("broken", "", value="broken_missing:plugin")
    assert "(broken_missing:plugin) could not be imported: ModuleNotFoundError" in reason()


def test_an_event_for_an_undeclared_room_type_stops_the_start(package) -> None:
    """The event could never be published; a room type of another package is accepted."""
    package("one", "plugin = Plugin('one')\nplugin.event('done', rooms=('place', 'user'))(Data)")
    assert reason() == (
        "event 'done' of plugin 'one' (package 'one 1.0', entry point 'one') goes to rooms of type 'place', and no "
        "plugin declares one. Correct its name, or install the plugin that has it."
    )
    package("two", "plugin = Plugin('two')\nplugin.room('places')")
    assert reason().endswith(" Did you mean 'places'?")
    package("three", "plugin = Plugin('three')\nplugin.room('place')")
    assert load().events["done"].rooms == ("place", "user")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", "plugin loose:polls could not be imported: ZeroDivisionError: division by zero."),
        (
            "from roomcast import Plugin\npoll = Plugin('polls')",
            "plugin loose:polls could not be imported: AttributeError: module 'loose' has no attribute 'polls'. The "
            "module has the plugin loose:poll.",
        ),
        (
            "from roomcast import Plugin\npolls = Plugin('chat')",
            "the plugin name 'chat' is declared twice: by plugin 'chat' (package 'roomcast 0.1.0', entry "
            "point 'chat') and by plugin 'chat' (loose:polls, which is not installed). Rename one, or uninstall its "
            "package.",
        ),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_by_its_module(tmp_path, monkeypatch, source, sentence) -> None:
    """``roomcast dev --plugin`` and ``roomcast plugin check`` load modules without a package."""
    (tmp_path / "loose.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loose", raising=False)
    chat = next(iter(entry_points(group=GROUP, name="chat")))
    with pytest.raises(PluginError) as caught:
        load([chat, EntryPoint("polls", "loose:polls", GROUP)])
    assert str(caught.value) == sentence


def test_a_schema_that_is_not_an_event() -> None:
    """The sentence says how to declare it; for an unknown name, it proposes a similar one."""
    registry = load()
    with pytest.raises(
        InvalidEvent, match=r'No event has the schema Schema; decorate the class with @plugin\.event\("'
    ):
        registry.event(Schema)
    with pytest.raises(InvalidEvent, match=r"No plugin declares an event 'mesage'; .* Did you mean 'message'?"):
        registry.event("mesage")


# The command line.


@pytest.mark.slow
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("plugins",)], ids=["serve", "plugins"])
def test_the_start_stops_with_one_sentence(tmp_path, command) -> None:
    """The command prints the sentence without a traceback, and exits with status 2."""
    install(tmp_path, "broken", "1 / 0")
    sentence = refusal(*command, PYTHONPATH=str(tmp_path), JWT_SECRET="x" * 32)
    assert sentence == (
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
def test_the_default_description_of_a_plugin(
    package: Package, tmp_path: Path, docstring: str, given: str, shown: str
) -> None:
    """It is the first line of the module's docstring."""
    point = package("roomcast-docs", "")
    (tmp_path / "roomcast_docs.py").write_text(
        f"{docstring}\nfrom roomcast import Plugin\nplugin = Plugin('docs', {given!r})\n"
    )
    assert load([point]).plugins["docs"].plugin.description == shown
