"""Tests of ``plugin``: declarations are stored, and those that cannot work are refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from marshmallow import Schema, fields

from roomcast import Context, Plugin, Refused, Service, User
from roomcast.errors import PluginError
from roomcast.room_options import RoomOptions


class Finished(Schema):
    """A version is live.

    Permanently.
    """

    version = fields.String(required=True)


class Undescribed(Schema):
    pass


async def handler(ctx: Context, data: dict) -> None:
    """Roll back."""


@pytest.fixture
def deploy() -> Plugin:
    """Return a plugin without declarations."""
    return Plugin("deploy", "Deployments")


def test_decorators_return_their_argument(deploy) -> None:
    """Schemas, handlers, rules, lifespans and routes can be used without the plugin too."""

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
    assert deploy.route("GET", "/live", auth="public")(route) is route


def test_the_description_of_an_event(deploy) -> None:
    """It is the docstring of the schema, without indentation, but not marshmallow's docstring."""
    deploy.event("deploy.finished", rooms=("environment",))(Finished)
    deploy.event("deploy.begun")(Undescribed)
    finished, begun = deploy.events["deploy.finished"], deploy.events["deploy.begun"]
    assert finished.description == "A version is live.\n\nPermanently."
    assert (finished.type, finished.rooms, finished.published_by_core) == ("deploy.finished", ("environment",), False)
    assert begun.description == ""


def test_a_command(deploy) -> None:
    """A command has its handler, schema and reply; the default type of the reply is ``reply``."""
    deploy.command("deploy.rollback", Finished)(handler)
    deploy.command("deploy.begin", Finished, reply="deploy.begun")(handler)
    rollback = deploy.commands["deploy.rollback"]
    assert (rollback.handler, rollback.description, rollback.reply) == (handler, "Roll back.", "reply")
    assert deploy.commands["deploy.begin"].reply == "deploy.begun"
    assert rollback.validator.load({"version": "1"}) == {"version": "1"}
    with pytest.raises(Refused):
        rollback.validator.load({})


def test_the_access_of_a_command(deploy) -> None:
    """A command is for members of the room by default; any other access than ``anyone`` is refused."""
    deploy.command("deploy.rollback", Finished)(handler)
    deploy.command("deploy.list", Finished, access="anyone")(handler)
    assert (deploy.commands["deploy.rollback"].access, deploy.commands["deploy.list"].access) == ("member", "anyone")
    for access in ("all", "", None, True):
        with pytest.raises(PluginError, match=r"command 'deploy.open' .* must be 'member' or 'anyone'"):
            deploy.command("deploy.open", Finished, access=access)


def test_a_room_type_with_and_without_a_rule(deploy) -> None:
    """The call alone is a declaration; decorating adds the rule and the default description."""
    deploy.room("environment", description="Where it runs")
    assert deploy.rooms["environment"] == ("environment", None, "Where it runs", RoomOptions())

    @deploy.room("cluster")
    async def rule(ctx: Context, cluster: str) -> bool:
        """Only its admins."""
        return False

    assert deploy.rooms["cluster"] == ("cluster", rule, "Only its admins.", RoomOptions())


def test_a_handler_may_be_a_partial_function(deploy) -> None:
    """A partial of an async function is a handler."""

    async def general(greeting: str, ctx: Context, data: dict) -> dict:
        return {"greeting": greeting}

    deploy.command("deploy.greet", Undescribed)(partial(general, "Hello"))
    assert list(deploy.commands) == ["deploy.greet"]


@pytest.mark.parametrize("name", ["", "Deploy", "de ploy", "de-ploy", "1deploy", "de.ploy", "de/ploy", "déploy", "x\n"])
def test_the_name_of_a_plugin_is_a_word(name) -> None:
    """Other names are refused, because the name is part of paths and messages."""
    with pytest.raises(PluginError, match="a plugin's name is a word like 'deploy'"):
        Plugin(name)


@pytest.mark.parametrize(
    "type", ["", "Deploy.done", "deploy done", "deploy.", ".done", "deploy..done", "deploy:x", "d\n"]
)
def test_a_type_is_words_joined_by_dots(deploy, type) -> None:
    """Other types of events and commands are refused with the plugin's name."""
    for declare in (lambda: deploy.event(type)(Finished), lambda: deploy.command(type, Finished)(handler)):
        with pytest.raises(PluginError, match="of plugin 'deploy' must be a word, or words joined by dots such as dep"):
            declare()


@pytest.mark.parametrize("type", ["", "Environment", "environment.x", "a:b", "a-b", "1a"])
def test_a_room_type_is_a_word(deploy, type) -> None:
    """Other room types are refused, because the type precedes the colon in a room's name."""
    with pytest.raises(PluginError, match=r"of plugin 'deploy' must be a word in lower case$"):
        deploy.room(type)


def test_a_decorator_without_a_type_is_refused(deploy) -> None:
    """``@deploy.event`` without parentheses is refused, because it would declare nothing."""
    with pytest.raises(PluginError, match=r"an event without a name; write @deploy\.event\(\"its_name\"\)"):
        deploy.event(Finished)
    with pytest.raises(PluginError, match=r"a command without a name; write @deploy\.command\("):
        deploy.command(handler, Finished)
    with pytest.raises(PluginError, match=r"a room type without a name; write @deploy\.room\("):
        deploy.room(handler)


def test_a_second_declaration_is_refused(deploy) -> None:
    """A type can be declared once; an event, a command and a room type may have the same name."""
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
def test_a_schema_must_be_a_marshmallow_class(deploy, schema) -> None:
    """Other objects are refused with the name of the declaration, and nothing is declared."""
    with pytest.raises(PluginError, match=r"event deploy\.finished of plugin 'deploy': .* is not a marshmallow Schema"):
        deploy.event("deploy.finished")(schema)
    with pytest.raises(PluginError, match=r"command deploy\.rollback of plugin 'deploy': .* is not a marshmallow"):
        deploy.command("deploy.rollback", schema)(handler)
    assert not deploy.events
    assert not deploy.commands


def test_a_schema_that_cannot_be_instantiated_is_refused(deploy) -> None:
    """The error has marshmallow's reason and the name of the declaration."""

    class Demanding(Schema):
        def __init__(self, version: str) -> None:
            super().__init__()

    with pytest.raises(PluginError, match=r"The schema Demanding cannot be instantiated: .*version"):
        deploy.event("deploy.finished")(Demanding)


class AsyncObject:
    """An object that is called like a coroutine function."""

    async def __call__(self, ctx: Context, data: dict) -> None:
        """Do nothing."""


def plain(ctx: Context, data: dict) -> Any:
    """Do nothing, in a thread."""


def test_coroutine_functions_are_stored_unchanged(deploy) -> None:
    """So are objects with an async ``__call__``, and partial functions of both."""
    for number, function in enumerate((handler, AsyncObject(), partial(AsyncObject()), partial(partial(handler)))):
        assert deploy.command(f"deploy.c{number}", Finished)(function) is function
        assert deploy.commands[f"deploy.c{number}"].handler is function


def test_plain_functions_become_coroutine_functions(deploy) -> None:
    """They run in threads. The decorator returns the function itself, and the description is that of the function."""
    assert deploy.command("deploy.rollback", Finished)(plain) is plain
    assert deploy.room("environment")(plain) is plain
    assert deploy.route("GET", "/live", auth="public")(plain) is plain
    for stored in (
        deploy.commands["deploy.rollback"].handler,
        deploy.rooms["environment"].rule,
        deploy.routes[0].handler,
    ):
        assert stored is not plain
        assert asyncio.iscoroutinefunction(stored)
    assert deploy.commands["deploy.rollback"].description == "Do nothing, in a thread."
    assert deploy.rooms["environment"].description == "Do nothing, in a thread."
    deploy.command("deploy.partial", Finished)(partial(plain))


def test_a_pipelined_handler_must_be_async(deploy) -> None:
    """Threads could overtake each other."""
    with pytest.raises(
        PluginError, match=r"command 'deploy\.rollback' of plugin 'deploy' is pipelined, so its handler"
    ):
        deploy.command("deploy.rollback", Finished, pipelined=True)(plain)
    assert not deploy.commands


async def async_generator(ctx: Context, data: dict) -> AsyncIterator[None]:
    """Yield."""
    yield


def generator(ctx: Context, data: dict) -> Iterator[None]:
    """Yield."""
    yield


@pytest.mark.parametrize("wrong", [async_generator, generator, partial(async_generator), AsyncObject, 7, None])
def test_generators_classes_and_other_objects_are_refused(deploy, wrong) -> None:
    """They would return something else than a result; nothing is declared."""
    with pytest.raises(
        PluginError, match=r"handler of command 'deploy\.rollback' must be an `async def` or a plain `def`"
    ):
        deploy.command("deploy.rollback", Finished)(wrong)
    with pytest.raises(PluginError, match="rule of room type 'environment' must be an `async def` or a plain `def`"):
        deploy.room("environment")(wrong)
    with pytest.raises(PluginError, match="handler of route GET '/live' must be an `async def` or a plain `def`"):
        deploy.route("GET", "/live", auth="public")(wrong)
    assert not (deploy.commands or deploy.routes)


def test_a_lifespan_is_an_async_generator(deploy) -> None:
    """Other functions have no two halves."""
    for wrong in (plain, handler, generator):
        with pytest.raises(PluginError, match="lifespan of plugin 'deploy' must be an `async def` function with one"):
            deploy.lifespan(wrong)
    with pytest.raises(PluginError, match=r"write @deploy\.lifespan without parentheses"):
        deploy.lifespan()
    assert not deploy.lifespans


async def no_arguments() -> bool:
    """Take nothing."""
    return True


async def one_too_many(ctx: Context, data: dict, reason: str) -> bool:
    """Take three arguments."""
    return True


async def keyword_only(ctx: Context, *, data: dict) -> bool:
    """Take the second one by name only."""
    return True


@pytest.mark.parametrize("function", [no_arguments, one_too_many, keyword_only])
def test_functions_must_take_the_arguments_of_their_call(deploy, function) -> None:
    """Otherwise each call would fail. The sentence has the call and the signature."""
    for declare, call in (
        (deploy.command("deploy.rollback", Finished), "(ctx, data)"),
        (deploy.room("environment"), "(ctx, entity_id)"),
        (deploy.route("GET", "/live", auth="public"), "(service, request)"),
    ):
        with pytest.raises(PluginError) as refused:
            declare(function)
        assert f"of plugin 'deploy' is called as {function.__name__}{call}, but is {function.__name__}(" in str(
            refused.value
        )
    with pytest.raises(PluginError, match=r"lifespan 'lifespan' of plugin 'deploy' is called as lifespan\(service\)"):

        @deploy.lifespan
        async def lifespan() -> AsyncIterator[None]:
            yield

    assert not (deploy.commands or deploy.routes or deploy.lifespans)


def test_a_rule_returns_a_bool(deploy) -> None:
    """An annotation that excludes bool is refused, because such a rule could allow nothing."""
    for number, annotation in enumerate((int, "str", dict[str, int], None)):

        async def rule(ctx: Context, entity_id: str):
            return entity_id

        rule.__annotations__["return"] = annotation
        with pytest.raises(PluginError, match=r"rule of room type '\w+' returns .*; it must return True or False"):
            deploy.room(f"wrong{number}")(rule)
    for number, annotation in enumerate((bool, "bool", "bool | None", Any, "Verdict")):

        async def good(ctx: Context, entity_id: str):
            return True

        good.__annotations__["return"] = annotation
        assert deploy.room(f"right{number}")(good) is good


@pytest.mark.parametrize("rooms", ["environment", ("environment:prod",), ("Environment",), ("*",)])
def test_rooms_of_an_event_are_room_types(deploy, rooms) -> None:
    """A string, a room and a pattern are refused."""
    with pytest.raises(PluginError, match=r"event 'deploy\.finished' goes to room types like \('environment',\)"):
        deploy.event("deploy.finished", rooms=rooms)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "live"), ("GET", ""), ("get", "/live"), ("HEAD", "/"), ("*", "/")]
)
def test_a_route_has_a_method_and_an_absolute_path(deploy, method, path) -> None:
    """The error lists the methods and requires a path that starts with a slash."""
    with pytest.raises(PluginError, match="must be one of GET, POST, PUT, PATCH, DELETE, the path begin with /"):
        deploy.route(method, path, auth="public")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {},
            r"route GET '/live' of plugin 'deploy' does not state who may call it; give auth='user', auth='api_key' or",
        ),
        ({"auth": "admin"}, "has auth='admin'; give auth='user'"),
        ({"auth": "public", "scope": "read"}, "has scope='read'; it must be one of publish, read, moderate, with"),
        ({"auth": "user", "scope": "read"}, "has scope='read'; it must be one of publish, read, moderate, with"),
        ({"auth": "api_key", "scope": "write"}, "has scope='write'; it must be one of publish, read, moderate, with"),
    ],
)
def test_a_route_states_who_may_call_it(deploy, options, words) -> None:
    """There is no default, so that no route is public by mistake."""
    with pytest.raises(PluginError, match=words):
        deploy.route("GET", "/live", **options)


def test_the_scope_of_a_route(deploy) -> None:
    """With an API key, GET needs the scope read, other methods need publish, unless the route has another one."""

    async def route(service: Service, request: web.Request) -> web.Response:
        return web.Response()

    for method, path, scope in (("GET", "/a", None), ("POST", "/a", None), ("DELETE", "/a", "moderate")):
        deploy.route(method, path, auth="api_key", scope=scope)(route)
    assert [route.scope for route in deploy.routes] == ["read", "publish", "moderate"]


def test_the_handler_of_a_route_for_users_takes_the_user(deploy) -> None:
    """It has a third argument, which other handlers do not have."""

    async def two(service: Service, request: web.Request) -> web.Response:
        return web.Response()

    async def three(service: Service, request: web.Request, user: User) -> web.Response:
        return web.Response()

    with pytest.raises(PluginError, match=r"is called as two\(service, request, user\), but is two\("):
        deploy.route("GET", "/live", auth="user")(two)
    with pytest.raises(PluginError, match=r"is called as three\(service, request\), but is three\("):
        deploy.route("GET", "/live", auth="public")(three)
    assert deploy.route("GET", "/live", auth="user")(three) is three


def test_a_second_route_is_refused(deploy) -> None:
    """A second route with the same method and path is refused."""

    async def route(service: Service, request: web.Request) -> web.Response:
        return web.Response()

    for method, path in (("GET", "/live"), ("POST", "/live"), ("GET", "/")):
        deploy.route(method, path, auth="public")(route)
    with pytest.raises(PluginError, match="plugin 'deploy' declares route GET '/live' twice"):
        deploy.route("GET", "/live", auth="public")


def test_repr(deploy) -> None:
    """repr has the name, for tracebacks and debuggers."""
    assert repr(deploy) == "Plugin('deploy')"
