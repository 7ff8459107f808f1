"""Routes of plugins: their paths, and failures that affect only the request."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from marshmallow import Schema, fields

from roomcast import AuthenticationFailed, Plugin, Refused, Service
from roomcast.errors import PluginError, Unavailable
from roomcast.testing import running

pytest_plugins = ("roomcast.testing",)

demo = Plugin("demo")


@demo.event("demo.done")
class Done(Schema):
    """Something was done."""

    what = fields.String(required=True)


@demo.route("GET", "/greet/{name}", auth="public")
async def greet(service: Service, request: web.Request) -> web.Response:
    """Greet the user in the path."""
    return web.Response(text=f"Hello {request.match_info['name']}")


@demo.route("POST", "/done", auth="public")
async def done(service: Service, request: web.Request) -> web.Response:
    """Publish the body, as a webhook does."""
    id = await service.publish(Done, "channel:1", await request.json(), sender="webhook")
    members = [member.username for member in await service.members("channel:1")]
    return web.json_response({"id": id, "members": members, "kept": len(await service.history("channel:1"))})


@demo.route("GET", "/fails/{how}", auth="public")
async def fails(service: Service, request: web.Request) -> web.StreamResponse:
    """Fail in one of several ways."""
    how = request.match_info["how"]
    if how == "late":
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half an answ")
    if how == "none":
        return None
    raise {
        "refused": Refused("not_today", "Come back tomorrow.", {"day": ["Too early."]}),
        "unavailable": Unavailable("the broker is away"),
        "stranger": AuthenticationFailed("The signature is wrong."),
        "gone": web.HTTPGone(text="moved to nowhere"),
        "gateway": web.HTTPBadGateway(text="the other server failed"),
    }.get(how) or LookupError(f"a secret reason, {how}")


@pytest.fixture
def roomcast_plugins() -> list[Plugin]:
    """Load the plugin of this module."""
    return [demo]


async def test_a_route_is_under_its_plugins_name(gateway):
    """The path may have parameters. Other paths get 404, other methods 405."""
    async with gateway.session.get("/plugins/demo/greet/alice") as response:
        assert (response.status, await response.text()) == (200, "Hello alice")
    for method, path, status in (
        ("GET", "/greet/alice", 404),
        ("GET", "/plugins/greet/alice", 404),
        ("GET", "/plugins/demo/greet/a/b", 404),
        ("POST", "/plugins/demo/greet/alice", 405),
    ):
        async with gateway.session.request(method, path) as response:
            assert response.status == status


async def test_a_route_uses_the_service(gateway, connect):
    """A route can publish, list members and read the history."""
    alice = await connect("alice", rooms=["channel:1"])
    await alice.join("channel:1")
    await alice.next("user_joined")
    async with gateway.session.post("/plugins/demo/done", json={"what": "it"}) as response:
        answer = await response.json()
    event = await alice.next("demo.done")
    assert answer == {"id": event["id"], "members": ["alice"], "kept": 1}
    assert (event["data"], event["sender"]) == ({"what": "it"}, "webhook")


async def test_invalid_data_is_refused_by_field(gateway):
    """The exception of the service becomes a response that names the field."""
    async with gateway.session.post("/plugins/demo/done", json={"what": 1}) as response:
        assert response.status == 422
        body = await response.json()
    assert body == {
        "error": "data.what: Not a valid string.",
        "code": "invalid_data",
        "fields": {"what": ["Not a valid string."]},
    }
    assert await gateway.service.history("channel:1") == []


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [("refused", 422, "not_today"), ("unavailable", 503, "unavailable"), ("stranger", 401, "bad_token")],
)
async def test_expected_exceptions_are_not_logged(gateway, caplog, how, status, code):
    """A refusal, an unavailable broker and a wrong token become responses in JSON."""
    async with gateway.session.get(f"/plugins/demo/fails/{how}") as response:
        assert response.status == status
        assert (await response.json())["code"] == code
    assert not [record for record in caplog.records if record.exc_info]


async def test_aiohttps_exceptions_are_responses(gateway):
    """An exception of aiohttp that a plugin raises becomes the response."""
    async with gateway.session.get("/plugins/demo/fails/gone") as response:
        assert (response.status, await response.text()) == (410, "moved to nowhere")


async def test_the_metrics_count_failures_of_routes(gateway):
    """Exceptions of aiohttp below 500 are no failures of the plugin; those from 500 and unexpected exceptions are."""
    for how, status in (("gone", 410), ("refused", 422), ("gateway", 502), ("badly", 500)):
        async with gateway.session.get(f"/plugins/demo/fails/{how}") as response:
            assert response.status == status
    async with gateway.session.get("/metrics") as response:
        metrics = await response.text()
    labels = '{function="fails",plugin="demo"}'
    assert f"roomcast_plugin_seconds_count{labels} 4.0" in metrics
    assert f"roomcast_plugin_errors_total{labels} 2.0" in metrics


@pytest.mark.parametrize(
    ("how", "logged"),
    [("badly", "a secret reason, badly"), ("none", "a NoneType; it must return a response")],
)
async def test_an_exception_is_500_and_logged(gateway, connect, caplog, how, logged):
    """The response does not contain the reason. Users and other requests are not affected."""
    alice = await connect("alice")
    async with gateway.session.get(f"/plugins/demo/fails/{how}") as response:
        assert response.status == 500
        body = await response.text()
        assert (await response.json())["code"] == "internal"
    assert logged not in body
    (record,) = [record for record in caplog.records if record.exc_info]
    assert logged in str(record.exc_info[1])
    assert "/plugins/demo/fails/{how}" in record.getMessage()
    await alice.nothing("error")
    async with gateway.session.get("/plugins/demo/greet/alice") as response:
        assert response.status == 200


async def test_an_exception_in_a_response_closes_the_connection(gateway, caplog):
    """The client detects that the response is incomplete, and the exception is logged."""
    async with gateway.session.get("/plugins/demo/fails/late") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert str(record.exc_info[1].__cause__) == "a secret reason, late"


async def test_an_invalid_route_stops_the_start():
    """The error names the plugin, its package and the path."""
    broken = Plugin("broken")
    broken.route("GET", "/{unclosed", auth="public")(greet)
    with pytest.raises(PluginError, match=r"plugin 'broken' .* route GET /plugins/broken/\{unclosed cannot be served"):
        async with running([broken]):
            raise AssertionError("it started")
