"""Who may call the routes of plugins: users, API keys, everyone, and pages of other origins (CORS)."""

from __future__ import annotations

import json
import time

import aiohttp
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import KEY, Serve, answer, bearer, call, token_for

from roomcast import Plugin, Refused, Service, User
from roomcast.web.port import Address
from roomcast.web.server import Server

PAGE = "https://app.example.com"
OTHER_PAGE = "https://evil.example.com"
NAMED_KEYS = json.dumps(
    {
        "reader": {"key": "a-key-that-may-only-read", "scopes": ["read"]},
        "limited": {"key": "a-key-for-one-room-only", "scopes": ["publish", "read"], "rooms": ["channel:1"]},
    }
)


@pytest.fixture
async def plugin() -> Plugin:
    """Return a plugin with a route of each kind."""
    polls = Plugin("polls")

    @polls.route("GET", "/mine/{id}", auth="user")
    async def mine(service: Service, request: web.Request, user: User) -> web.Response:
        """Return a poll of the user.

        Only its author sees it.
        """
        if request.match_info["id"] == "0":
            raise Refused("not_found", "There is no poll 0.", {"id": ["Unknown."]}, status=404)
        allowed = {room: user.claims_allow(room) for room in ("poll:1", "poll:2")}
        return web.json_response([user.user_id, user.username, dict(user.claims), allowed])

    @polls.route("DELETE", "/mine/{id}", auth="user")
    def delete(service: Service, request: web.Request, user: User) -> web.Response:
        """Delete a poll of the user."""
        return web.json_response(user.user_id)

    @polls.route("GET", "/all", auth="api_key")
    async def read_all(service: Service, request: web.Request) -> web.Response:
        """Return all polls."""
        return web.json_response("all")

    @polls.route("POST", "/all", auth="api_key")
    async def replace_all(service: Service, request: web.Request) -> web.Response:
        return web.json_response("replaced")

    @polls.route("GET", "/hello/{name:[a-z]{1,9}}", auth="public")
    async def hello(service: Service, request: web.Request) -> web.Response:
        """Greet everyone."""
        if request.match_info["name"] == "gone":
            raise web.HTTPGone
        return web.json_response("hello")

    return polls


MINE = "/plugins/polls/mine/1"
ALL = "/plugins/polls/all"
HELLO = "/plugins/polls/hello/you"


async def test_a_route_for_users(serve: Serve, plugin: Plugin) -> None:
    """The handler gets the user of the token; a plain function gets it too."""
    server = await serve(plugins=[plugin])
    token = token_for(7, "alice", ["poll:1"], team="red")
    found = await call(server, "GET", MINE, key=token)
    assert found == (200, [7, "alice", {"team": "red"}, {"poll:1": True, "poll:2": False}])
    assert await call(server, "DELETE", MINE, key=token) == (200, 7)


@pytest.mark.parametrize("token", [None, "", "nonsense", KEY, token_for(expires_in=-10), token_for() + "x"])
async def test_a_wrong_token(serve: Serve, plugin: Plugin, token: str | None) -> None:
    """A missing, malformed or expired token, and an API key, get 401 with a challenge."""
    server = await serve(plugins=[plugin])
    async with answer(server, "GET", MINE, key=token) as response:
        assert (response.status, (await response.json())["code"]) == (401, "bad_token")
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="roomcast"')
    async with answer(server, "GET", f"{MINE}?token={token_for()}", key=None) as response:
        assert response.status == 401


async def test_a_revoked_token(serve: Serve, plugin: Plugin) -> None:
    """A token that was revoked gets 401, as at the WebSocket."""
    server = await serve(plugins=[plugin])
    token = token_for(7, iat=time.time() - 10)
    assert (await call(server, "GET", MINE, key=token))[0] == 200
    await server.gateway.revocations.revoke_all(7, time.time())
    status, body = await call(server, "GET", MINE, key=token)
    assert (status, body["code"]) == (401, "bad_token")


async def test_a_status_of_the_plugin(serve: Serve, plugin: Plugin) -> None:
    """Refused with a status has it, with the code, the sentence and the fields."""
    server = await serve(plugins=[plugin])
    status, body = await call(server, "GET", "/plugins/polls/mine/0", key=token_for())
    assert (status, body) == (
        404,
        {"error": "There is no poll 0.", "code": "not_found", "fields": {"id": ["Unknown."]}},
    )


@pytest.mark.parametrize("status", [399, 500, 200, 0])
def test_a_wrong_status(status: int) -> None:
    """A refusal is the caller's fault, so it has a status from 400 to 499."""
    with pytest.raises(ValueError, match=f"a refusal has a status from 400 to 499, not {status}"):
        Refused("not_found", "There is no poll.", status=status)


@pytest.mark.parametrize(
    ("key", "method", "status", "code"),
    [
        (KEY, "GET", 200, None),
        (KEY, "POST", 200, None),
        ("a-key-that-may-only-read", "GET", 200, None),
        ("a-key-that-may-only-read", "POST", 403, "missing_scope"),
        ("a-key-for-one-room-only", "GET", 403, "forbidden_room"),
        ("wrong", "GET", 401, "unauthorized"),
        (None, "GET", 401, "unauthorized"),
        (token_for(), "GET", 401, "unauthorized"),
    ],
)
async def test_a_route_for_api_keys(
    serve: Serve, plugin: Plugin, key: str | None, method: str, status: int, code: str | None
) -> None:
    """It needs a key with the scope of its method, for all rooms."""
    server = await serve(plugins=[plugin], api_keys=NAMED_KEYS)
    found, body = await call(server, method, ALL, key=key)
    assert found == status
    assert code is None or body["code"] == code


async def test_a_route_for_api_keys_is_on_the_internal_port(serve: Serve, plugin: Plugin) -> None:
    """The public port does not have it, as it does not have the HTTP API."""
    server: Server = await serve(plugins=[plugin], internal=Address(port=0))
    assert (await call(server, "GET", HELLO, key=None))[0] == 200
    async with answer(server, "GET", ALL) as response:
        assert response.status == 404
    internal = f"http://127.0.0.1:{server.ports[1].number}"
    async with aiohttp.ClientSession(internal) as session:
        for path, status in ((ALL, 200), (HELLO, 200)):
            async with session.get(path, headers=bearer(KEY)) as response:
                assert response.status == status


# CORS.


async def test_a_page_of_an_allowed_origin(serve: Serve, plugin: Plugin) -> None:
    """It may read responses of routes for users and of public ones, refusals and exceptions of aiohttp too."""
    server = await serve(plugins=[plugin], allowed_origins=(PAGE,))
    for path, key, status in (
        (MINE, token_for(), 200),
        (MINE, None, 401),
        ("/plugins/polls/mine/0", token_for(), 404),
        (HELLO, None, 200),
        ("/plugins/polls/hello/gone", None, 410),
    ):
        async with answer(server, "GET", path, key=key, headers={"Origin": PAGE}) as response:
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert "Origin" in response.headers["Vary"]


async def test_a_page_of_another_origin(serve: Serve, plugin: Plugin) -> None:
    """It gets 403 from routes for users, and cannot read the responses of public ones."""
    server = await serve(plugins=[plugin], allowed_origins=(PAGE,))
    for path, key, status in ((MINE, token_for(), 403), (HELLO, None, 200)):
        async with answer(server, "GET", path, key=key, headers={"Origin": OTHER_PAGE}) as response:
            assert response.status == status
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_preflight_requests(serve: Serve, plugin: Plugin) -> None:
    """The answer has all methods of the path; other origins get 403, and routes for API keys have no answer."""
    server = await serve(plugins=[plugin], allowed_origins=(PAGE,))
    asked = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization,traceparent"}
    for path, methods in ((MINE, "GET, DELETE"), (HELLO, "GET")):
        async with answer(server, "OPTIONS", path, key=None, headers={"Origin": PAGE, **asked}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Access-Control-Allow-Methods"] == methods
            assert response.headers["Access-Control-Allow-Headers"] == "authorization, traceparent"
        async with answer(server, "OPTIONS", path, key=None, headers={"Origin": OTHER_PAGE, **asked}) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
    async with answer(server, "OPTIONS", ALL, key=None, headers={"Origin": PAGE, **asked}) as response:
        assert response.status == 405
        assert "Access-Control-Allow-Origin" not in response.headers


# Documents.


async def test_routes_are_in_the_documents(serve: Serve, plugin: Plugin) -> None:
    """OpenAPI has each route with its summary, parameters and security, and is valid; the page lists the routes."""
    server = await serve(plugins=[plugin])
    _, document = await call(server, "GET", "/openapi.json", key=None)
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    get, delete = (document["paths"]["/plugins/polls/mine/{id}"][method] for method in ("get", "delete"))
    assert (get["summary"], get["description"]) == ("Return a poll of the user.", "Only its author sees it.")
    assert get["parameters"] == [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    assert get["security"] == delete["security"] == [{"userToken": []}]
    polls = document["paths"][ALL]
    assert (polls["get"]["security"], polls["post"]["security"]) == ([{"apiKey": ["read"]}], [{"apiKey": ["publish"]}])
    assert "summary" not in polls["post"]
    assert document["paths"]["/plugins/polls/hello/{name}"]["get"]["security"] == []
    async with answer(server, "GET", "/docs", key=None) as response:
        page = await response.text()
    assert "GET /plugins/polls/hello/{name}" in page
    assert "backends, with an API key that has the scope publish" in page
