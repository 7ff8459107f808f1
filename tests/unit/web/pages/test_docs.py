"""``/asyncapi.json``, ``/openapi.json`` and ``/docs``: their content, and that the API conforms to it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from serving import WITH_KEY, GatewayClient, connect, url
from zoo_plugin import zoo

from roomcast.web import routes


async def test_the_documents_name_this_server(gateway_client: GatewayClient) -> None:
    """AsyncAPI and OpenAPI need no key, contain the host of the request, and may be read by pages of other sites."""
    client = await gateway_client()
    for path, host in (("/asyncapi.json", f"127.0.0.1:{client.port}"), ("/openapi.json", url(client, ""))):
        response = await client.get(path)
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert f'"{host}"' in json.dumps(await response.json())


@pytest.mark.parametrize("path", ["/asyncapi.json", "/openapi.json", "/static/roomcast.js", "/static/roomcast.d.ts"])
async def test_a_page_may_load_a_public_file_with_headers_of_its_own(gateway_client: GatewayClient, path: str) -> None:
    """The preflight request of a page of any origin gets the headers that it asks for."""
    client = await gateway_client()
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "baggage,traceparent"}
    response = await client.options(path, headers={"Origin": "https://elsewhere.example"} | asked)
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
    assert response.headers["Access-Control-Allow-Headers"] == "baggage, traceparent"
    assert response.headers["Vary"] == "Access-Control-Request-Headers"


OF_ROOM = "/api/v1/rooms/{room}"
OF_USER = "/api/v1/users/{user_id}"
EVENT = {"type": "task.created", "room": "project:1", "data": {"task_id": 1, "title": "Ship"}, "sender": "alice"}
#: Requests to the API: method, path as in the document, values of its parameters, body, expected status.
REQUESTS: list[tuple[str, str, dict[str, Any], Any, int]] = [
    ("post", "/api/v1/events", {}, EVENT, 200),
    ("post", "/api/v1/events", {}, [EVENT, EVENT], 200),
    ("post", "/api/v1/events", {}, 7, 422),
    ("post", "/api/v1/events", {}, [EVENT, {**EVENT, "data": {"title": 1}}, {}], 422),
    ("get", "/api/v1/rooms", {}, None, 200),
    ("get", f"{OF_ROOM}/members", {"room": "project:1"}, None, 200),
    ("get", f"{OF_ROOM}/members", {"room": "nowhere"}, None, 422),
    ("get", f"{OF_ROOM}/history", {"room": "project:1"}, None, 200),
    ("get", f"{OF_ROOM}/history", {"room": "planet:1"}, None, 422),
    ("delete", f"{OF_ROOM}/members/{{user_id}}", {"room": "project:1", "user_id": 2}, None, 200),
    ("delete", f"{OF_ROOM}/members/{{user_id}}", {"room": "project:1", "user_id": "a%00b"}, None, 422),
    ("delete", f"{OF_USER}/connections", {"user_id": 2}, None, 200),
    ("delete", f"{OF_USER}/tokens", {"user_id": 2}, None, 200),
    ("delete", f"{OF_USER}/tokens", {"user_id": "a%00b"}, None, 422),
    ("delete", f"{OF_USER}/tokens/{{jti}}", {"user_id": "bob", "jti": "7"}, None, 200),
    ("delete", f"{OF_USER}/tokens/{{jti}}", {"user_id": "a%00b", "jti": "7"}, None, 422),
    ("post", "/api/v1/tickets", {}, None, 401),
]


async def test_the_api_conforms_to_its_document(gateway_client: GatewayClient) -> None:
    """The status and the schema of each response are in /openapi.json, errors included."""
    client = await gateway_client()
    document = await (await client.get("/openapi.json")).json()
    async with connect(client) as alice:
        await alice.join("project:1")
        for method, path, values, body, expected in REQUESTS:
            response = await client.request(method.upper(), path.format(**values), json=body, headers=WITH_KEY)
            given = await response.json()
            assert response.status == expected, (method, path, given)
            described = document["paths"][path][method]["responses"][str(expected)]
            schema = described["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(given)
    tried = {(method, path) for method, path, *_ in REQUESTS}
    assert tried == {(m, p) for p, kinds in document["paths"].items() if p.startswith("/api/") for m in kinds}


def test_every_endpoint_is_tested() -> None:
    """``REQUESTS`` contains all routes of the API."""
    app = web.Application()
    routes.add_api_routes(app.router)
    paths = {(route.method.lower(), route.resource.canonical) for route in app.router.routes() if route.resource}
    tried = {(method, path) for method, path, *_ in REQUESTS}
    assert {(method, path) for method, path in paths if method not in ("*", "head")} <= tried


async def test_the_page_is_static(gateway_client: GatewayClient) -> None:
    """The page's policy allows no script and no other files. Without a console the page has no links to it."""
    client = await gateway_client()
    response = await client.get("/docs")
    text = await response.text()
    policy = response.headers["Content-Security-Policy"]
    assert "script" not in policy
    assert policy.startswith("default-src 'none'; style-src 'nonce-")
    assert "<script" not in text
    assert "/console#" not in text
    for name in ("send_message", "task.created", "joined_room", "rate_limited", "4410"):
        assert name in text


async def test_the_access_of_commands(gateway_client: GatewayClient) -> None:
    """The page states who may use each command of a plugin."""
    client = await gateway_client(plugins=[zoo])
    text = await (await client.get("/docs")).text()
    for command, access in (("feed", "Only for members of the room."), ("watch", "For any connected user.")):
        found = re.search(rf'<article id="command-animal\.{command}">.*?</article>', text, re.DOTALL)
        assert found is not None and access in found[0]


async def test_code_in_descriptions(gateway_client: GatewayClient) -> None:
    """Code spans of descriptions are shown as code, and their text is escaped."""
    client = await gateway_client()
    text = await (await client.get("/docs")).text()
    assert "<code>&lt;epoch&gt;-&lt;offset&gt;</code>" in text
    assert "`" not in re.sub("<(script|style|pre).*?</\\1>", "", text, flags=re.DOTALL)


async def test_an_example_of_the_page_is_accepted(gateway_client: GatewayClient) -> None:
    """The page's example of an event can be published unchanged."""
    client = await gateway_client()
    text = (await (await client.get("/docs")).text()).replace("&#34;", '"')
    found = re.search(r'id="event-task\.created".*?<pre>(.*?)</pre>', text, re.DOTALL)
    assert found is not None
    event = json.loads(found[1])
    posted = {name: event[name] for name in ("type", "room", "data", "sender")}
    response = await client.post("/api/v1/events", json=posted, headers=WITH_KEY)
    assert response.status < 300
