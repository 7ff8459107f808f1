"""A server with an internal port: what each port serves, and how long."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from aiohttp import web
from handshakes import request as handshake
from serving import ANY_PORT, PATH, Serve, answer, bearer, call, connect, new_gateway, refused, token_for, url
from waiting import PATIENCE, wait_until
from wire import Peer

from roomcast import Plugin, Service
from roomcast.broker.memory import MemoryBroker
from roomcast.web.api.ticket_limit import MAX_UNUSED
from roomcast.web.connection_limit import CONNECTION_LIMIT
from roomcast.web.failure_logs import FAILURE_LOGS
from roomcast.web.ops.health import BROKER_DOWN
from roomcast.web.port import ListenError
from roomcast.web.server import Server
from roomcast.web.wrong_keys import WRONG_KEYS

INTERNAL = ANY_PORT._replace(is_internal=True)
#: The paths on the public port, besides those of plugins.
PUBLIC = {
    PATH,
    "/api/v1/tickets",
    "/health/live",
    "/health/ready",
    "/static/roomcast.js",
    "/static/roomcast.js.map",
    "/static/roomcast.d.ts",
}
#: The routes that answer 404.
FALLBACKS = {"/api/v1/{rest}", "/{rest}"}
TICKETS = "/api/v1/tickets"


class At(NamedTuple):
    """A port of 127.0.0.1."""

    port: int


def internal_of(server: Server) -> At:
    """Return the internal port of ``server``."""
    return At(server.ports[1].number)


def paths(server: Server, port: int) -> set[str]:
    """Return the paths that one of the ports of ``server`` has, as patterns."""
    return {resource.canonical for resource in server.ports[port].app.router.resources()}


async def test_the_public_port_has_only_what_users_need(serve: Serve) -> None:
    """With an internal port, the public one has no other paths. The internal port has all paths of a single port."""
    server, single = await serve(internal=INTERNAL, console=True), await serve(console=True)
    assert len(server.ports) == 2 and len(single.ports) == 1
    assert paths(server, 0) == PUBLIC | FALLBACKS
    assert paths(server, 1) == paths(single, 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/", "/metrics", "/docs", "/openapi.json", "/asyncapi.json", "/console")),
        *(("GET", path) for path in ("/console/static/console.js", "/api/v1/rooms", "/api/v1/rooms/task:1/members")),
        ("HEAD", "/metrics"),
        ("OPTIONS", "/openapi.json"),
        ("POST", "/api/v1/events"),
        ("POST", "/console/login"),
        ("DELETE", "/api/v1/users/1/tokens"),
    ],
)
async def test_other_requests_do_not_exist_on_the_public_port(serve: Serve, method: str, path: str) -> None:
    """They get 404, also with the API key, and are answered on the internal port."""
    server = await serve(internal=INTERNAL, console=True)
    async with answer(server, method, path, allow_redirects=False) as response:
        assert response.status == 404
        if path.startswith("/api/"):
            body = await response.json()
            assert body["code"] == "no_such_path" and "INTERNAL_ADDRESS" in body["error"]
    async with answer(internal_of(server), method, path, allow_redirects=False) as response:
        assert response.status not in (404, 405)


async def test_the_rest_is_on_both_ports(serve: Serve) -> None:
    """WebSockets, the client's files, the routes of plugins and the health checks."""
    plugin = Plugin("parrot")

    @plugin.route("GET", "/hello", auth="public")
    async def hello(service: Service, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    server = await serve(internal=INTERNAL, plugins=[plugin])
    for port in (At(server.port), internal_of(server)):
        async with connect(port) as alice:
            assert await alice.join("channel:1")
        for path in ("/static/roomcast.js", "/health/live", "/health/ready", "/plugins/parrot/hello"):
            async with answer(port, "GET", path, key=None) as response:
                assert response.status == 200


async def test_the_public_port_has_no_details_of_health(serve: Serve) -> None:
    """The state of each part is on the internal port only. The status is the same on both."""
    broker = MemoryBroker(10, 10)
    server = await serve(internal=INTERNAL, broker=broker)
    assert await call(server, "GET", "/health/ready") == (200, {"ready": True})
    status, body = await call(internal_of(server), "GET", "/health/ready", key=None)
    assert (status, body["ready"], body["parts"]["broker"]) == (200, True, "ok")
    await broker.close()
    assert await call(server, "GET", "/health/ready") == (503, {"ready": False})
    status, body = await call(internal_of(server), "GET", "/health/ready", key=None)
    assert (status, body["ready"]) == (503, False)
    assert body["parts"]["broker"] not in ("ok", BROKER_DOWN)


async def test_the_limits_are_those_of_the_whole_server(serve: Serve) -> None:
    """Sockets of both ports count together, and so do failures in the log."""
    public, internal = (await serve(internal=INTERNAL)).ports
    for key in (CONNECTION_LIMIT, FAILURE_LOGS, WRONG_KEYS):
        assert public.app[key] is internal.app[key]


async def test_tickets_belong_to_the_server_and_not_to_a_port(serve: Serve) -> None:
    """A ticket of one port opens a WebSocket at the other, and both count unused tickets together."""
    server = await serve(internal=INTERNAL)
    ports = [At(server.port), internal_of(server)]
    user = {"key": None, "headers": bearer(token_for(7))}
    for port, other in (ports, ports[::-1]):
        _, body = await call(port, "POST", TICKETS, **user)
        async with connect(other, path=f"{PATH}?ticket={body['ticket']}") as alice:
            assert alice.welcome["data"]["user_id"] == 7
    statuses = [(await call(ports[n % 2], "POST", TICKETS, **user))[0] for n in range(MAX_UNUSED + 2)]
    assert statuses == [200] * MAX_UNUSED + [429] * 2


async def test_the_documents_name_both_ports(serve: Serve) -> None:
    """PUBLIC_URL is the address of the WebSockets. The HTTP API is at the address that the client used."""
    server = await serve(internal=INTERNAL, public_url="https://cast.example/rt")
    internal = internal_of(server)
    _, document = await call(internal, "GET", "/openapi.json")
    assert document["servers"] == [{"url": url(internal, "")}]
    _, document = await call(internal, "GET", "/asyncapi.json")
    assert document["servers"]["this"]["host"] == "cast.example"
    async with answer(internal, "GET", "/docs") as response:
        assert "wss://cast.example/rt/api/v1/ws/connect" in await response.text()


async def is_refused(port: At) -> bool:
    """Return True if nothing listens on ``port``."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_the_internal_port_shows_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers until the last client has left, and accepts no WebSockets. The public port is closed before."""
    monkeypatch.setattr("roomcast.web.server.CLOSE_TIMEOUT", PATIENCE)
    server = Server(new_gateway(), ANY_PORT, internal=INTERNAL)
    await server.start()
    public, internal = At(server.port), internal_of(server)
    client = await Peer.connect(("127.0.0.1", public.port))
    await client.send(handshake(f"{PATH}?token={token_for()}"))
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    stopping = asyncio.create_task(server.stop())
    await wait_until(lambda: is_refused(public))
    status, body = await call(internal, "GET", "/health/ready", key=None)
    assert (status, body["ready"]) == (503, False)
    async with answer(internal, "GET", "/metrics", key=None) as response:
        text = await response.text()
    assert "\nroomcast_draining 1.0\n" in text and "\nroomcast_connections 1.0\n" in text
    assert (await call(internal, "GET", "/api/v1/rooms"))[0] == 200
    assert await refused(internal, f"{PATH}?token={token_for(2)}") == (1012, "Service Restart")
    assert not stopping.done()
    client.close()
    await stopping
    assert await is_refused(internal)


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_port_in_use_ends_the_start(serve: Serve, taken: int) -> None:
    """The error has the address. The gateway is stopped, and the other port is free again."""
    first = await serve(internal=INTERNAL)
    addresses = [ANY_PORT, INTERNAL]
    addresses[taken] = addresses[taken]._replace(port=first.ports[taken].number)
    second = Server(new_gateway(), addresses[0], internal=addresses[1])
    with pytest.raises(ListenError) as failed:
        await second.start()
    assert failed.value.address == addresses[taken]
