"""``/asyncapi.json``, ``/openapi.json`` and ``/docs``: their content, and that the API conforms to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from serving import WITH_KEY, GatewayClient, connect, url
from wire import Peer
from zoo_plugin import zoo

from roomcast import Context, Plugin, Service
from roomcast.registry import Registry
from roomcast.web import routes
from roomcast.web.pages import docs


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


async def test_live_events_are_marked(gateway_client: GatewayClient) -> None:
    """The page and AsyncAPI state which events are not stored, and their examples have no id."""
    client = await gateway_client()
    page = await (await client.get("/docs")).text()
    for type, is_stored in (("typing", False), ("user_joined", False), ("message", True)):
        article = page.partition(f'id="event-{type}"')[2].partition("</article>")[0]
        assert ("Not stored" in article) is not is_stored
        assert ("k3x9q2ab1-7" in article) is is_stored
    messages = (await (await client.get("/asyncapi.json")).json())["components"]["messages"]
    stored = {name: message["x-stored"] for name, message in messages.items() if name.startswith("event.")}
    assert (stored["event.typing"], stored["event.message"], stored["event.user_left"]) == (False, True, False)
    assert "id" not in messages["event.typing"]["payload"]["properties"]
    assert "id" in messages["event.message"]["payload"]["required"]


DOCUMENTS = ["/asyncapi.json", "/openapi.json", "/docs"]


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_an_unchanged_document_is_not_sent_again(gateway_client: GatewayClient, path: str) -> None:
    """A matching ETag is answered with 304, also to HEAD. The ETag belongs to the server's address."""
    client = await gateway_client()
    response = await client.get(path)
    tag, length = response.headers["ETag"], response.headers["Content-Length"]
    assert response.headers["Cache-Control"] == "no-cache"
    for known, status in ((tag, 304), (f'"other", W/{tag}', 304), ("*", 304), ('"other"', 200), (tag[:-2] + '"', 200)):
        for method in ("GET", "HEAD"):
            response = await client.request(method, path, headers={"If-None-Match": known})
            assert (response.status, response.headers["ETag"]) == (status, tag)
            assert response.headers.get("Content-Length", length) == length
            assert bool(await response.read()) == (status == 200 and method == "GET")
    response = await client.get(path, headers={"If-None-Match": tag, "Host": "elsewhere.example"})
    assert response.status == 200


@pytest.mark.parametrize("path", DOCUMENTS)
async def test_a_document_is_built_once(
    gateway_client: GatewayClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests for different hosts share the encoded text, and each gets its own address only."""
    built: list[str] = []

    def counted(name: str) -> Callable[[Registry], Any]:
        build = getattr(docs, name)

        def count(registry: Registry, **options: Any) -> Any:
            built.append(name)
            return build(registry, **options)

        return count

    for name in ("asyncapi", "openapi", "catalog"):
        monkeypatch.setattr(docs, name, counted(name))
    client = await gateway_client()
    own = await (await client.get(path)).read()
    for number in range(20):
        response = await client.get(path, headers={"Host": f"host-{number}.example:8443"})
        text = await response.text()
        assert f"host-{number}.example:8443" in text
        assert set(re.findall(r"host-[0-9]+", text)) == {f"host-{number}"}
        assert await (await client.get(path)).read() == own
    assert len(built) == 1


async def test_a_host_cannot_change_the_markup(gateway_client: GatewayClient) -> None:
    """Whatever a client sends as its host is text in the page, and a string in the JSON documents."""
    client = await gateway_client()
    for host in (b"<script>alert(1)</script>", b'"><b>', b"a&b", b"\xff\xfe", b"x" * 4000):
        for path in DOCUMENTS:
            peer = await Peer.connect(("127.0.0.1", client.port))
            await peer.send(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path.encode(), host))
            head = await peer.head()
            size = re.search(rb"Content-Length: ([0-9]+)", head)
            assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 ")) and size is not None
            body = await peer.read(int(size[1]))
            if b" 200 " in head and path.endswith(".json"):
                json.loads(body)
            assert b"<script" not in body or path.endswith(".json")
            assert b"<b>" not in body or path.endswith(".json")
            peer.close()


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
    ("get", OF_USER, {"user_id": 1}, None, 200),
    ("get", OF_USER, {"user_id": "nobody"}, None, 200),
    ("get", OF_USER, {"user_id": "a%00b"}, None, 422),
    ("post", "/api/v1/users/status", {}, {"user_ids": [1, "nobody"]}, 200),
    ("post", "/api/v1/users/status", {}, {"user_ids": [""]}, 422),
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
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None and text.count("<style") == 1
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
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


async def test_the_options_of_room_types(gateway_client: GatewayClient) -> None:
    """The page and the document show the options that are in effect, with declared, overridden and other values."""
    rooms = {"ROOM_TASK_HISTORY_SIZE": "0", "ROOM_CHANNEL_COMMANDS": "none", "ROOM_PROJECT_PRESENCE": "false"}
    client = await gateway_client(room_variables=rooms, history_ttl=5400.0)
    channels = json.loads(await (await client.get("/asyncapi.json")).text())["channels"]
    assert {name: channels[f"room.{name}"]["x-room-options"] for name in ("task", "channel", "project", "user")} == {
        "task": {"history_size": 0, "presence": True, "announce_max": 1000},
        "channel": {
            **{"history_size": 500, "history_ttl": 5400, "presence": True, "announce_max": 1000, "commands": []},
        },
        "project": {"history_size": 500, "history_ttl": 5400, "presence": False},
        "user": {"history_size": 500, "history_ttl": 5400},
    }
    page = (await (await client.get("/docs")).text()).replace("\u00a0", " ")
    table = page.partition('id="rooms"')[2].partition("</table>")[0]
    found = {row[0]: row[2:] for row in (re.findall("<td>(.*?)</td>", one) for one in table.split("<tr>")) if row}
    announced = "joins are announced up to 1,000 users"
    assert found == {
        "<code>user:…</code>": ["500 events for 90 min", "none", "none"],
        "<code>channel:…</code>": ["500 events for 90 min", announced, "none"],
        "<code>task:…</code>": ["none", announced, "all"],
        "<code>project:…</code>": ["500 events for 90 min", "none", "all"],
    }


async def test_hooks_are_not_public(gateway_client: GatewayClient) -> None:
    """The public documents have what clients need to know, and neither the names nor the docstrings of hooks."""
    guard = Plugin("guard")

    @guard.before_command("send_message")
    async def check_secret_words(ctx: Context, data: dict[str, Any]) -> None:
        """Refuse the secret words of the company."""

    @guard.after_publish("*")
    async def report_to_archive(service: Service, event: dict[str, Any]) -> None:
        """Keep a copy in the archive."""

    client = await gateway_client(plugins=[guard])
    for path in ("/docs", "/asyncapi.json", "/openapi.json"):
        text = await (await client.get(path)).text()
        assert "send_message" in text or path == "/openapi.json"
        for hidden in ("check_secret_words", "report_to_archive", "secret words", "in the archive"):
            assert hidden not in text
