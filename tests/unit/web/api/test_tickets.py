"""Tickets: pages of allowed origins and programs exchange a user's token for a ticket that is valid once."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp.test_utils import TestClient
from serving import KEY, PATH, WITH_KEY, GatewayClient, Serve, bearer, connect, refused, token_for
from wire import Peer

from roomcast.broker.memory import MemoryBroker
from roomcast.web.api.ticket_limit import MAX_UNUSED
from roomcast.web.app_state import GATEWAY
from roomcast.web.cors import MAX_REQUESTED_HEADERS

TICKETS = "/api/v1/tickets"
REFUSED = (4401, "Authentication Failed")
APP = "https://app.example.com"
EVIL = "https://evil.example.com"


async def ticket_for(client: TestClient, token: str) -> str:
    """Return a new ticket."""
    response = await client.post(TICKETS, headers=bearer(token))
    assert response.status == 200
    return (await response.json())["ticket"]


async def test_a_ticket_admits_its_user_once(gateway_client: GatewayClient):
    """The connection has the user of the ticket. The second use of the ticket is refused with 4401."""
    client = await gateway_client()
    ticket = await ticket_for(client, token_for(7, "bob", ["channel:1"]))
    async with connect(client, path=f"{PATH}?ticket={ticket}") as bob:
        assert bob.welcome["data"].items() >= {"user_id": 7, "username": "bob"}.items()
        assert (await bob.join("channel:1"))["room"] == "channel:1"
        assert await refused(client, f"{PATH}?ticket={ticket}") == REFUSED
        assert await bob.settled() == [frame for frame in bob.frames if frame["type"] == "user_joined"]


async def test_of_simultaneous_uses_of_a_ticket_one_is_admitted(gateway_client: GatewayClient):
    """The ticket is taken from the broker atomically."""
    client = await gateway_client()
    path = f"{PATH}?ticket={await ticket_for(client, token_for())}"

    async def attempt() -> str:
        async with connect(client, path=path) as user:
            return user.welcome["type"]

    results = await asyncio.gather(*(attempt() for _ in range(5)), return_exceptions=True)
    assert results.count("connected") == 1


async def test_a_user_has_a_limited_number_of_unused_tickets(gateway_client: GatewayClient):
    """At the limit, requests get 429 with Retry-After until a ticket is used. Other users still get tickets."""
    client = await gateway_client()
    tickets = [await ticket_for(client, token_for(7)) for _ in range(MAX_UNUSED)]
    response = await client.post(TICKETS, headers=bearer(token_for(7)))
    body = await response.json()
    assert (response.status, body["code"], response.headers["Retry-After"]) == (429, "too_many_tickets", "30")
    assert f"{MAX_UNUSED} tickets" in body["error"]
    await ticket_for(client, token_for(8))
    async with connect(client, path=f"{PATH}?ticket={tickets[0]}"):
        await ticket_for(client, token_for(7))
        assert (await client.post(TICKETS, headers=bearer(token_for(7)))).status == 429


async def test_the_response_has_the_lifetime_and_is_not_cached(gateway_client: GatewayClient):
    """``expires_in`` is TICKET_TTL. All tickets differ, and they are long."""
    client = await gateway_client(ticket_ttl=12)
    tickets = set()
    for _ in range(20):
        response = await client.post(TICKETS, headers=bearer(token_for()))
        assert response.headers["Cache-Control"] == "no-store"
        body = await response.json()
        assert body.keys() == {"ticket", "expires_in"}
        assert body["expires_in"] == 12
        tickets.add(body["ticket"])
    assert len(tickets) == 20
    assert min(map(len, tickets)) >= 32
    assert not any(token_for()[:10] in ticket for ticket in tickets)


async def test_a_ticket_expires(gateway_client: GatewayClient):
    """After TICKET_TTL a ticket is refused like an unknown one."""
    now = 0.0
    client = await gateway_client(ticket_ttl=12, broker=MemoryBroker(clock=lambda: now))
    early, late = [await ticket_for(client, token_for()) for _ in range(2)]
    now = 11.9
    async with connect(client, path=f"{PATH}?ticket={early}"):
        now = 12.0
        assert await refused(client, f"{PATH}?ticket={late}") == REFUSED


@pytest.mark.parametrize("ticket", ["", "x", "x" * 5000, "%00", "ticket%2Fx", "null"])
async def test_an_unknown_ticket_is_refused(gateway_client: GatewayClient, ticket: str):
    """An unknown ticket gets 4401, even while another ticket is unused."""
    client = await gateway_client()
    await ticket_for(client, token_for())
    assert await refused(client, f"{PATH}?ticket={ticket}") == REFUSED


async def test_a_ticket_of_an_expired_token_is_refused(gateway_client: GatewayClient):
    """The token is verified again when the ticket is used."""
    client = await gateway_client()
    await client.app[GATEWAY].broker.put("ticket/old", json.dumps(token_for(expires_in=-1)).encode(), 30)
    assert await refused(client, f"{PATH}?ticket=old") == REFUSED


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, "Send the user's token"),
        ({"Authorization": "Bearer"}, "Send the user's token"),
        ({"Authorization": f"Basic {token_for()}"}, "Send the user's token"),
        ({"Authorization": "Bearer nonsense"}, "not a JWT"),
        ({"Authorization": f"Bearer {token_for(expires_in=-1)}"}, "has expired"),
        ({"Authorization": f"Bearer {token_for()}x"}, "signature"),
        ({"Authorization": f"Bearer {KEY}"}, "not a JWT"),
    ],
)
async def test_a_ticket_needs_a_valid_token(gateway_client: GatewayClient, headers: dict[str, str], error: str):
    """Without one the response is 401 with a challenge and the reason. An API key or a token in the URL is not used."""
    client = await gateway_client()
    response = await client.post(f"{TICKETS}?token={token_for()}", headers=headers)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="roomcast"')
    body = await response.json()
    assert body["code"] == "bad_token"
    assert error in body["error"]


async def test_tokens_and_tickets_are_not_logged(gateway_client: GatewayClient, caplog: pytest.LogCaptureFixture):
    """No log line contains either when a ticket is issued, used, used again, or refused."""
    for logger in ("roomcast", "aiohttp"):
        caplog.set_level(logging.DEBUG, logger=logger)
    client = await gateway_client(allowed_origins=(APP,))
    token, old = token_for(), token_for(expires_in=-1)
    ticket = await ticket_for(client, token)
    async with connect(client, path=f"{PATH}?ticket={ticket}"):
        await refused(client, f"{PATH}?ticket={ticket}")
    await client.post(TICKETS, headers=bearer(old))
    await client.post(TICKETS, headers=bearer(token) | {"Origin": EVIL})
    assert "refused a ticket to 127.0.0.1: The token has expired." in caplog.text
    assert f"refused a ticket to a page of another site: origin '{EVIL}'" in caplog.text
    for secret in (token, old, ticket, token.split(".")[1], token.split(".")[2]):
        assert secret not in caplog.text


async def test_an_unavailable_broker_is_503(gateway_client: GatewayClient):
    """The response is JSON with Retry-After."""
    client = await gateway_client()
    await client.app[GATEWAY].broker.close()
    response = await client.post(TICKETS, headers=bearer(token_for()))
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert (await response.json())["code"] == "unavailable"


# Pages of other origins

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_a_page_of_an_allowed_origin_gets_tickets(gateway_client: GatewayClient):
    """The page's preflight request succeeds, and the page can read both a ticket and an error."""
    client = await gateway_client(allowed_origins=(APP,))
    origin = {"Origin": APP}
    response = await client.options(TICKETS, headers=origin | PREFLIGHT)
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == APP
    assert response.headers["Access-Control-Allow-Methods"] == "POST"
    assert "authorization" in response.headers["Access-Control-Allow-Headers"].lower()
    assert int(response.headers["Access-Control-Max-Age"]) > 0
    assert response.headers.getall("Vary") == ["Access-Control-Request-Headers", "Origin"]
    for token, status in ((token_for(), 200), ("nonsense", 401)):
        response = await client.post(TICKETS, headers=origin | bearer(token))
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers


ASKED = "authorization,baggage,content-type,sentry-trace,traceparent,tracestate,x-requested-with"


async def test_a_page_gets_the_headers_that_it_asks_for(gateway_client: GatewayClient):
    """Libraries for tracing add headers to every request of a page. A page that asks for none gets none."""
    client = await gateway_client(allowed_origins=(APP,))
    asked = {"Origin": APP, "Access-Control-Request-Method": "POST"}
    response = await client.options(TICKETS, headers=asked | {"Access-Control-Request-Headers": ASKED})
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Headers"].split(", ") == ASKED.split(",")
    response = await client.options(TICKETS, headers=asked)
    assert response.status == 204
    assert "Access-Control-Allow-Headers" not in response.headers


async def test_only_names_of_headers_are_repeated(gateway_client: GatewayClient):
    """Other texts are left out, and so are names above the limit."""
    client = await gateway_client(allowed_origins=(APP,))
    asked = ["x-a", "b c", "", "x:y", "<script>", "é", "x" * 101, "X-B", *(f"x-{n}" for n in range(100))]
    headers = {"Origin": APP, "Access-Control-Request-Headers": ",".join(asked)}
    response = await client.options(TICKETS, headers=headers)
    allowed = response.headers["Access-Control-Allow-Headers"].split(", ")
    assert allowed[:3] == ["x-a", "X-B", "x-0"]
    assert len(allowed) < MAX_REQUESTED_HEADERS


@pytest.mark.parametrize("allowed", [(APP,), ()])
@pytest.mark.parametrize("origin", [EVIL, "null", f"{APP}.evil.example.com", "http://app.example.com"])
async def test_a_page_of_another_origin_is_refused(
    gateway_client: GatewayClient, allowed: tuple[str, ...], origin: str
):
    """The page's requests get 403, without the headers that would allow it to read the error."""
    client = await gateway_client(allowed_origins=allowed)
    for method, headers in (("OPTIONS", PREFLIGHT), ("POST", {})):
        headers = bearer(token_for()) | headers | {"Origin": origin}
        response = await client.request(method, TICKETS, headers=headers)
        assert response.status == 403
        assert not [name for name in response.headers if name.startswith("Access-Control")]
        assert response.headers["Vary"] == "Origin"
        body = await response.json()
        assert body["code"] == "bad_origin"
        assert "ALLOWED_ORIGINS" in body["error"]


@pytest.mark.parametrize("allowed", [(), (APP,)])
async def test_a_page_of_the_same_host_gets_tickets(gateway_client: GatewayClient, allowed: tuple[str, ...]):
    """Pages of the server's own host are always allowed, as for WebSockets."""
    client = await gateway_client(allowed_origins=allowed)
    for origin, status in ((f"http://127.0.0.1:{client.port}", 200), (f"http://127.0.0.1:{client.port + 1}", 403)):
        response = await client.post(TICKETS, headers=bearer(token_for()) | {"Origin": origin})
        assert response.status == status


async def test_any_page_gets_tickets_if_all_origins_are_allowed(gateway_client: GatewayClient):
    """With ALLOWED_ORIGINS=* the response names the origin of the page."""
    client = await gateway_client(allowed_origins=("*",))
    response = await client.post(TICKETS, headers=bearer(token_for()) | {"Origin": EVIL})
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, EVIL)


async def test_an_origin_cannot_inject_a_header(serve: Serve):
    """Only an allowed origin is repeated in the response."""
    server = await serve(allowed_origins=(APP,))
    peer = await Peer.connect(("127.0.0.1", server.port))
    head = (
        f"POST {TICKETS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_for()}\r\nOrigin: {APP}\nX-Evil: 1\r\n\r\n"
    )
    await peer.send(head.encode())
    assert b"x-evil" not in (await peer.head()).lower()
    peer.close()


async def test_other_endpoints_do_not_allow_other_origins(gateway_client: GatewayClient):
    """No page may use the API key, even with an allowed origin, because the key must not be in a browser."""
    client = await gateway_client(allowed_origins=(APP,))
    response = await client.options("/api/v1/events", headers={"Origin": APP} | PREFLIGHT)
    assert response.status == 405
    assert not [name for name in response.headers if name.startswith("Access-Control")]
    response = await client.get("/api/v1/rooms", headers=WITH_KEY | {"Origin": APP})
    assert response.status == 200
    assert not [name for name in response.headers if name.startswith("Access-Control")]
