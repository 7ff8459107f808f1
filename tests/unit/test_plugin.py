"""What a plugin declares is kept as it was said; what could not work is refused where it is written."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from marshmallow import Schema, fields

from roomcast import Context, Plugin, Refused, Service
from roomcast.errors import PluginError


class Finished(Schema):
    """A version is live.

    For good.
    """

    version = fields.String(required=True)


class Undescribed(Schema):
    pass


async def handler(ctx: Context, data: dict) -> None:
    """Do it."""


@pytest.fixture
def deploy() -> Plugin:
    """A plugin that has declared nothing yet."""
    return Plugin("deploy", "Deployments")


def test_a_declaration_changes_nothing_of_what_it_decorates(deploy):
    """Schemas, handlers, rules, lifespans and routes stay what they were, to be used elsewhere too."""

    async def rule(ctx: Context, id: str) -> bool:
        return True

    async def lifespan(service: Service) -> AsyncIterator[None]:
        yield

    async def route(service: Service, request: web.Request) -> web.Response:
        return web.Response()

    assert deploy.event("deploy.finished")(Finished) is Finished
    assert deploy.command("deploy.rollback", Finished)(handler) is handler
    assert deploy.room("environment")(rule) is rule
    assert deploy.lifespan(lifespan) is lifespan
    assert deploy.route("GET", "/live")(route) is route


def test_an_event_is_described_by_its_schemas_docstring(deploy):
    """Its own, without indentation, and not marshmallow's."""
    deploy.event("deploy.finished", rooms=("environment",))(Finished)
    deploy.event("deploy.begun")(Undescribed)
    finished, begun = deploy.events["deploy.finished"], deploy.events["deploy.begun"]
    assert finished.description == "A version is live.\n\nFor good."
    assert (finished.type, finished.rooms, finished.published_by_core) == ("deploy.finished", ("environment",), False)
    assert begun.description == ""


def test_a_command_keeps_its_handler_schema_and_reply(deploy):
    """The type of the reply is ``reply``, unless it says another."""
    deploy.command("deploy.rollback", Finished)(handler)
    deploy.command("deploy.begin", Finished, reply="deploy.begun")(handler)
    rollback = deploy.commands["deploy.rollback"]
    assert (rollback.handler, rollback.description, rollback.reply) == (handler, "Do it.", "reply")
    assert deploy.commands["deploy.begin"].reply == "deploy.begun"
    assert rollback.validator.load({"version": "1"}) == {"version": "1"}
    with pytest.raises(Refused):
        rollback.validator.load({})


def test_a_room_type_without_a_rule_has_the_built_in_one(deploy):
    """The call alone is a declaration; decorating adds the rule and, without another, its description."""
    deploy.room("environment", description="Where it runs")
    assert deploy.rooms["environment"] == ("environment", None, "Where it runs")

    @deploy.room("cluster")
    async def rule(ctx: Context, cluster: str) -> bool:
        """Only its admins."""
        return False

    assert deploy.rooms["cluster"] == ("cluster", rule, "Only its admins.")


def test_an_async_function_may_be_partly_applied(deploy):
    """What gives a coroutine when called is a handler."""

    async def general(greeting: str, ctx: Context, data: dict) -> dict:
        return {"greeting": greeting}

    deploy.command("deploy.greet", Undescribed)(functools.partial(general, "Hello"))
    assert list(deploy.commands) == ["deploy.greet"]


@pytest.mark.parametrize("name", ["", "Deploy", "de ploy", "de-ploy", "1deploy", "de.ploy", "de/ploy", "déploy", "x\n"])
def test_a_plugins_name_is_one_word(name):
    """It stands in paths and messages."""
    with pytest.raises(PluginError, match="a plugin's name is a word like 'deploy'"):
        Plugin(name)


@pytest.mark.parametrize(
    "type", ["", "Deploy.done", "deploy done", "deploy.", ".done", "deploy..done", "deploy:x", "d\n"]
)
def test_a_type_is_words_joined_by_dots(deploy, type):
    """It is refused with the plugin's name, for events and commands alike."""
    for declare in (lambda: deploy.event(type)(Finished), lambda: deploy.command(type, Finished)(handler)):
        with pytest.raises(PluginError, match="of plugin 'deploy' must be a lower-case word, or some joined by dots"):
            declare()


@pytest.mark.parametrize("type", ["", "Environment", "environment.x", "a:b", "a-b", "1a"])
def test_a_room_type_is_one_word(deploy, type):
    """It stands before the colon of a room."""
    with pytest.raises(PluginError, match=r"of plugin 'deploy' must be a lower-case word$"):
        deploy.room(type)


def test_a_decorator_without_its_type_is_refused(deploy):
    """``@deploy.event`` in place of ``@deploy.event("…")`` would declare nothing, without a word."""
    with pytest.raises(PluginError, match=r"is no name; say @deploy\.…\(\"its_name\"\)"):
        deploy.event(Finished)
    with pytest.raises(PluginError, match="is no name"):
        deploy.command(handler, Finished)
    with pytest.raises(PluginError, match="is no name"):
        deploy.room(handler)


def test_nothing_is_declared_twice(deploy):
    """A second declaration of one type is refused; an event, a command and a room type may share a name."""
    deploy.event("deploy")(Finished)
    deploy.command("deploy", Finished)(handler)
    deploy.room("deploy")
    with pytest.raises(PluginError, match="plugin 'deploy' declares event 'deploy' twice"):
        deploy.event("deploy")(Undescribed)
    with pytest.raises(PluginError, match="plugin 'deploy' declares command 'deploy' twice"):
        deploy.command("deploy", Undescribed)(handler)
    with pytest.raises(PluginError, match="plugin 'deploy' declares room type 'deploy' twice"):
        deploy.room("deploy")


@pytest.mark.parametrize("schema", [dict, Finished(), fields.String, None, {"version": fields.String()}, "Finished"])
def test_a_schema_is_a_class_of_marshmallow(deploy, schema):
    """What is none is refused with the declaration's name, and nothing is declared."""
    with pytest.raises(PluginError, match=r"event deploy\.finished of plugin 'deploy': .* is not a marshmallow Schema"):
        deploy.event("deploy.finished")(schema)
    with pytest.raises(PluginError, match=r"command deploy\.rollback of plugin 'deploy': .* is not a marshmallow"):
        deploy.command("deploy.rollback", schema)(handler)
    assert not deploy.events
    assert not deploy.commands


def test_a_schema_that_cannot_be_made_is_refused(deploy):
    """The reason is marshmallow's, the place ours."""

    class Demanding(Schema):
        def __init__(self, version: str) -> None:
            super().__init__()

    with pytest.raises(PluginError, match=r"The schema Demanding cannot be instantiated: .*version"):
        deploy.event("deploy.finished")(Demanding)


def test_what_must_wait_is_an_async_function(deploy):
    """A plain function would hold up everyone; it is refused, and nothing is declared."""

    def plain(*args: object) -> None:
        pass

    with pytest.raises(PluginError, match=r"handler of command 'deploy\.rollback' must be an `async def` function"):
        deploy.command("deploy.rollback", Finished)(plain)
    with pytest.raises(PluginError, match="rule of room type 'environment' must be an `async def` function"):
        deploy.room("environment")(plain)
    with pytest.raises(PluginError, match="handler of route GET '/live' must be an `async def` function"):
        deploy.route("GET", "/live")(plain)
    for wrong in (plain, handler):
        with pytest.raises(PluginError, match="lifespan of plugin 'deploy' must be an `async def` function with one"):
            deploy.lifespan(wrong)
    assert not (deploy.commands or deploy.routes or deploy.lifespans)


@pytest.mark.parametrize("rooms", ["environment", ("environment:prod",), ("Environment",), ("*",)])
def test_an_event_goes_to_room_types(deploy, rooms):
    """A string would be taken for its letters, and a room or a pattern is no type."""
    with pytest.raises(PluginError, match=r"event 'deploy\.finished' goes to room types like \('environment',\)"):
        deploy.event("deploy.finished", rooms=rooms)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "live"), ("GET", ""), ("get", "/live"), ("HEAD", "/"), ("*", "/")]
)
def test_a_route_has_a_method_and_an_absolute_path(deploy, method, path):
    """The message says what is allowed."""
    with pytest.raises(PluginError, match="must be one of GET, POST, PUT, PATCH, DELETE, the path begin with /"):
        deploy.route(method, path)


def test_a_route_is_declared_once(deploy):
    """The second would never be reached; another method or path is another route."""

    async def route(service: Service, request: web.Request) -> web.Response:
        return web.Response()

    for method, path in (("GET", "/live"), ("POST", "/live"), ("GET", "/")):
        deploy.route(method, path)(route)
    with pytest.raises(PluginError, match="plugin 'deploy' declares route GET '/live' twice"):
        deploy.route("GET", "/live")


def test_it_shows_its_name(deploy):
    """In tracebacks and debuggers."""
    assert repr(deploy) == "Plugin('deploy')"
