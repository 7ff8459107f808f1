"""Tickets: a user's token is exchanged for one that is good once, by pages of allowed origins and by programs."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from serving import KEY, PATH, Serve, answer, call, connect, refused, token_for
from wire import Peer

from roomcast.broker.memory import MemoryBroker
from roomcast.web.api.ticket_limit import MAX_UNUSED
from roomcast.web.server import Server

TICKETS = "/api/v1/tickets"
REFUSED = (4401, "Authentication Failed")
APP = "https://app.example.com"
EVIL = "https://evil.example.com"


async def ticket_for(server: Server, token: str) -> str:
    """A fresh ticket."""
    status, body = await call(server, "POST", TICKETS, key=token)
    assert status == 200
    return body["ticket"]


async def test_a_ticket_lets_its_user_in_once(serve: Serve):
    """The user is the token's; the second use of the ticket is refused with 4401."""
    server = await serve()
    ticket = await ticket_for(server, token_for(7, "bob", ["channel:1"]))
    async with connect(server, path=f"{PATH}?ticket={ticket}") as bob:
        assert bob.welcome["data"] == {"message": "Connected successfully", "user_id": 7, "username": "bob"}
        assert (await bob.join("channel:1"))["room"] == "channel:1"
        assert await refused(server, f"{PATH}?ticket={ticket}") == REFUSED
        assert await bob.settled() == [frame for frame in bob.heard if frame["type"] == "user_joined"]


async def test_of_two_who_use_a_ticket_at_once_one_gets_in(serve: Serve):
    """However close they come."""
    server = await serve()
    path = f"{PATH}?ticket={await ticket_for(server, token_for())}"

    async def attempt() -> str:
        async with connect(server, path=path) as user:
            return user.welcome["type"]

    results = await asyncio.gather(*(attempt() for _ in range(5)), return_exceptions=True)
    assert results.count("connected") == 1


async def test_a_user_can_have_so_many_tickets_at_a_time(serve: Serve):
    """Then 429, with when to come back, until one of them is used; others still get theirs."""
    server = await serve()
    tickets = [await ticket_for(server, token_for(7)) for _ in range(MAX_UNUSED)]
    async with answer(server, "POST", TICKETS, key=token_for(7)) as response:
        body = await response.json()
        assert (response.status, body["code"], response.headers["Retry-After"]) == (429, "too_many_tickets", "30")
        assert f"{MAX_UNUSED} tickets" in body["error"]
    await ticket_for(server, token_for(8))
    async with connect(server, path=f"{PATH}?ticket={tickets[0]}"):
        await ticket_for(server, token_for(7))
        status, _ = await call(server, "POST", TICKETS, key=token_for(7))
        assert status == 429


async def test_the_answer_says_how_long_and_is_not_kept(serve: Serve):
    """``expires_in`` is TICKET_TTL, caches keep nothing, and no two tickets are alike or short."""
    server = await serve(ticket_ttl=12)
    tickets = set()
    for _ in range(20):
        async with answer(server, "POST", TICKETS, key=token_for()) as response:
            assert response.headers["Cache-Control"] == "no-store"
            body = await response.json()
            assert body.keys() == {"ticket", "expires_in"}
            assert body["expires_in"] == 12
            tickets.add(body["ticket"])
    assert len(tickets) == 20
    assert min(map(len, tickets)) >= 32
    assert not any(token_for()[:10] in ticket for ticket in tickets)


async def test_a_ticket_ends_with_its_time(serve: Serve):
    """After TICKET_TTL it is one that never was."""
    now = 0.0
    server = await serve(ticket_ttl=12, broker=MemoryBroker(clock=lambda: now))
    early, late = [await ticket_for(server, token_for()) for _ in range(2)]
    now = 11.9
    async with connect(server, path=f"{PATH}?ticket={early}"):
        now = 12.0
        assert await refused(server, f"{PATH}?ticket={late}") == REFUSED


@pytest.mark.parametrize("ticket", ["", "x", "x" * 5000, "%00", "ticket%2Fx", "null"])
async def test_what_is_no_ticket_lets_nobody_in(serve: Serve, ticket: str):
    """Made-up tickets are refused with 4401, while a real one is outstanding."""
    server = await serve()
    await ticket_for(server, token_for())
    assert await refused(server, f"{PATH}?ticket={ticket}") == REFUSED


async def test_a_token_that_ended_meanwhile_lets_nobody_in(serve: Serve):
    """A ticket makes its token live no longer: it is looked at again when it is used."""
    server = await serve()
    await server.gateway.broker.put("ticket/old", json.dumps(token_for(expires_in=-1)).encode(), 30)
    assert await refused(server, f"{PATH}?ticket=old") == REFUSED


@pytest.mark.parametrize(
    ("headers", "said"),
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
async def test_without_a_good_token_there_is_no_ticket(serve: Serve, headers: dict[str, str], said: str):
    """401 with a challenge and the reason; the API key is not a token, and one in the URL is not looked at."""
    server = await serve()
    async with answer(server, "POST", f"{TICKETS}?token={token_for()}", key=None, headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="roomcast"')
        body = await response.json()
        assert body["code"] == "bad_token"
        assert said in body["error"]


async def test_neither_token_nor_ticket_gets_into_the_log(serve: Serve, caplog: pytest.LogCaptureFixture):
    """Not when one is given, not when it is used, used again, or refused."""
    for logger in ("roomcast", "aiohttp"):
        caplog.set_level(logging.DEBUG, logger=logger)
    server = await serve(allowed_origins=(APP,))
    token, old = token_for(), token_for(expires_in=-1)
    ticket = await ticket_for(server, token)
    async with connect(server, path=f"{PATH}?ticket={ticket}"):
        await refused(server, f"{PATH}?ticket={ticket}")
    await call(server, "POST", TICKETS, key=old)
    await call(server, "POST", TICKETS, key=token, headers={"Origin": EVIL})
    assert "refused a ticket to 127.0.0.1: The token has expired." in caplog.text
    assert f"refused a ticket to a page of another site: origin '{EVIL}'" in caplog.text
    for secret in (token, old, ticket, token.split(".")[1], token.split(".")[2]):
        assert secret not in caplog.text


async def test_while_the_broker_is_away_there_are_no_tickets(serve: Serve):
    """503 with Retry-After, and in JSON."""
    server = await serve()
    await server.gateway.broker.close()
    async with answer(server, "POST", TICKETS, key=token_for()) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json())["code"] == "unavailable"


# Pages of other origins.

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_a_page_of_an_allowed_origin_may_ask(serve: Serve):
    """Its preflight allows what it needs, and both the ticket and a refusal can be read by it."""
    server = await serve(allowed_origins=(APP,))
    origin = {"Origin": APP}
    async with answer(server, "OPTIONS", TICKETS, key=None, headers=origin | PREFLIGHT) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert response.headers["Access-Control-Allow-Methods"] == "POST"
        assert "authorization" in response.headers["Access-Control-Allow-Headers"].lower()
        assert int(response.headers["Access-Control-Max-Age"]) > 0
        assert response.headers["Vary"] == "Origin"
    for key, status in ((token_for(), 200), ("nonsense", 401)):
        async with answer(server, "POST", TICKETS, key=key, headers=origin) as response:
            assert response.status == status
            assert response.headers["Access-Control-Allow-Origin"] == APP
            assert response.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("allowed", [(APP,), ()])
@pytest.mark.parametrize("origin", [EVIL, "null", f"{APP}.evil.example.com", "http://app.example.com"])
async def test_a_page_of_another_origin_gets_nothing(serve: Serve, allowed: tuple[str, ...], origin: str):
    """403 to its preflight and to its request, without a header that would let it read even that."""
    server = await serve(allowed_origins=allowed)
    for method, headers in (("OPTIONS", PREFLIGHT), ("POST", {})):
        async with answer(server, method, TICKETS, key=token_for(), headers={"Origin": origin, **headers}) as response:
            assert response.status == 403
            assert not [name for name in response.headers if name.startswith("Access-Control")]
            assert response.headers["Vary"] == "Origin"
            body = await response.json()
            assert body["code"] == "bad_origin"
            assert "ALLOWED_ORIGINS" in body["error"]


async def test_a_page_of_the_same_host_may_ask(serve: Serve):
    """Without ALLOWED_ORIGINS it is pages of the server's own host that may, as with the socket."""
    server = await serve()
    for origin, status in ((f"http://127.0.0.1:{server.port}", 200), (f"http://127.0.0.1:{server.port + 1}", 403)):
        assert (await call(server, "POST", TICKETS, key=token_for(), headers={"Origin": origin}))[0] == status


async def test_any_page_may_ask_where_all_are_allowed(serve: Serve):
    """ALLOWED_ORIGINS=* allows every page by its own name."""
    server = await serve(allowed_origins=("*",))
    async with answer(server, "POST", TICKETS, key=token_for(), headers={"Origin": EVIL}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, EVIL)


async def test_an_origin_cannot_forge_a_header(serve: Serve):
    """What is repeated of the request is what was allowed; nothing of a crafted origin becomes a header."""
    server = await serve(allowed_origins=(APP,))
    peer = await Peer.connect(("127.0.0.1", server.port))
    head = (
        f"POST {TICKETS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_for()}\r\nOrigin: {APP}\nX-Evil: 1\r\n\r\n"
    )
    await peer.send(head.encode())
    assert b"x-evil" not in (await peer.head()).lower()
    peer.close()


async def test_nothing_else_of_the_api_is_for_other_pages(serve: Serve):
    """No page of another origin, allowed or not, is let to call with the API key: it has no business in a browser."""
    server = await serve(allowed_origins=(APP,))
    async with answer(server, "OPTIONS", "/api/v1/events", key=None, headers={"Origin": APP} | PREFLIGHT) as response:
        assert response.status == 405
        assert not [name for name in response.headers if name.startswith("Access-Control")]
    async with answer(server, "GET", "/api/v1/rooms", headers={"Origin": APP}) as response:
        assert response.status == 200
        assert not [name for name in response.headers if name.startswith("Access-Control")]
