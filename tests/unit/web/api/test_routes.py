"""The HTTP API on a real server: publish, look, kick, disconnect; and what it says to those who ask wrongly."""

from __future__ import annotations

import io
import json
import logging
import re
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from marshmallow import Schema, fields
from serving import KEY, SECRET, Serve, answer, call, connect, token_for, url
from wire import Peer
from yarl import URL

from roomcast import Plugin
from roomcast.web import console_session
from roomcast.web.server import Server

EVENTS = "/api/v1/events"
CALLS = [
    ("POST", EVENTS),
    ("GET", "/api/v1/rooms"),
    ("GET", "/api/v1/rooms/channel:1/members"),
    ("GET", "/api/v1/rooms/channel:1/history"),
    ("DELETE", "/api/v1/rooms/channel:1/members/1"),
    ("DELETE", "/api/v1/users/1/connections"),
    ("DELETE", "/api/v1/users/1/tokens"),
    ("DELETE", "/api/v1/users/1/tokens/t"),
]


def created(title: str = "New feature", room: str = "project:123") -> dict:
    """An event as a backend sends it."""
    return {"type": "task.created", "room": room, "data": {"task_id": 789, "title": title}, "sender": "alice"}


broken = Plugin("broken")


def fail(value: object) -> None:
    """What a plugin's author got wrong."""
    raise RuntimeError(f"no thought was given to {value!r}")


@broken.event("broken.event")
class Broken(Schema):
    x = fields.String(validate=fail)


# The key.


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_the_key_nothing_is_answered_or_done(serve: Serve, method: str, path: str):
    """No key, a wrong one, another scheme: 401 with a challenge, and the users stay where they are."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("channel:1")
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Basic {KEY}"}):
            async with answer(server, method, path, created(room="channel:1"), key=None, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer ")
                body = await response.json()
                assert body["code"] == "unauthorized"
                assert "API" in body["error"]
                assert "channel:1" not in json.dumps(body)
        assert [frame["type"] for frame in await alice.settled()] == ["user_joined"]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_an_api_key_the_api_is_off_and_says_how_to_turn_it_on(serve: Serve, method: str, path: str):
    """API_KEY unset: 403 to whatever is sent, an empty key included."""
    server = await serve(api_key=None)
    for key in (None, "", "None", KEY):
        status, body = await call(server, method, path, key=key)
        assert (status, body["code"]) == (403, "api_off")
        assert "set API_KEY" in body["error"]


async def test_a_users_token_is_no_api_key(serve: Serve):
    """What lets a user connect does not let them publish."""
    server = await serve()
    assert (await call(server, "POST", EVENTS, created(), key=token_for()))[0] == 401


async def test_the_scheme_may_be_written_in_any_case(serve: Serve):
    """RFC 9110 section 11.1: authentication schemes are case-insensitive."""
    server = await serve()
    assert (await call(server, "GET", "/api/v1/rooms", key=None, headers={"Authorization": f"bearer {KEY}"}))[0] == 200


async def test_no_key_and_no_token_gets_into_the_log(serve: Serve, caplog: pytest.LogCaptureFixture):
    """A wrong key is logged with where it came from, but not itself; nor is the right one, whatever fails."""
    for logger in ("roomcast", "aiohttp"):
        caplog.set_level(logging.DEBUG, logger=logger)
    server = await serve(plugins=[broken])
    await call(server, "GET", "/api/v1/rooms", key="not-the-key")
    await call(server, "GET", f"/api/v1/nowhere?token={token_for()}")
    assert (await call(server, "POST", EVENTS, {"type": "broken.event", "room": "task:1", "data": {"x": ""}}))[0] == 500
    assert "from 127.0.0.1: the key is wrong" in caplog.text
    for secret in ("not-the-key", KEY, SECRET, token_for()[:20]):
        assert secret not in caplog.text


async def test_the_consoles_page_may_call_after_its_login(serve: Serve):
    """The cookie with the console's header is as good as the key; alone, as any page could send it, it is not."""
    server = await serve(console=True)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        async with http.post(url(server, "/console/login"), data={"key": KEY}):
            assert jar.filter_cookies(URL(url(server, "/")))
        async with http.get(url(server, "/api/v1/rooms"), headers={console_session.HEADER: "1"}) as response:
            assert response.status == 200
        async with http.get(url(server, "/api/v1/rooms")) as response:
            assert response.status == 401


# Publishing.


async def test_an_event_reaches_the_room_and_its_id_is_answered(serve: Serve):
    """One event: its id is the answer, and every member gets it with that id, in the envelope of docs/protocol.md."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("project:123")
        await alice.recv_type("user_joined")
        status, body = await call(server, "POST", EVENTS, created())
        assert status == 200
        event = await alice.recv()
        assert event.pop("timestamp").endswith("Z")
        assert event == {**created(), **body}
        assert list(body) == ["id"]


async def test_a_list_is_published_in_order(serve: Serve):
    """The ids are answered in the order of the list, and members hear the events in it."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("project:123")
        status, body = await call(server, "POST", EVENTS, [created(title) for title in "abc"])
        assert status == 200
        heard = [await alice.recv_type("task.created") for _ in range(3)]
        assert [event["id"] for event in heard] == body["ids"]
        assert [event["data"]["title"] for event in heard] == ["a", "b", "c"]


async def test_an_empty_list_is_nothing_to_do(serve: Serve):
    """A backend with nothing to say today is not in error."""
    server = await serve()
    assert await call(server, "POST", EVENTS, []) == (200, {"ids": []})


async def test_a_notification_goes_to_its_user_alone(serve: Serve):
    """An event of a user's room has no room, and no sender unless one was given; nobody else hears of it."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        data = {"title": "You were mentioned", "message": "by Bob"}
        for sender in ({}, {"sender": None}, {"sender": "bob"}):
            event = {"type": "notification.new", "room": "user:1", "data": data}
            assert (await call(server, "POST", EVENTS, event | sender))[0] == 200
        heard = await alice.settled()
        assert [event.get("sender", "nobody") for event in heard] == ["nobody", "nobody", "bob"]
        assert not any("room" in event for event in heard)
        assert heard[0]["data"] == {**data, "priority": "normal"}
        assert await bob.settled() == []


async def test_of_a_list_with_a_bad_event_nothing_is_published(serve: Serve):
    """All or nothing: members hear of none, the history has none, and the next list is published as usual."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("project:123")
        await alice.recv_type("user_joined")
        status, body = await call(server, "POST", EVENTS, [created("a"), created("b", "nowhere"), created("c")])
        assert (status, body["code"]) == (422, "invalid_events")
        assert body["error"].startswith(
            "1 of 3 events cannot be published, so none was published. At index 1: room 'nowhere' is not"
        )
        assert [(item["index"], item["field"]) for item in body["items"]] == [(1, "room")]
        assert await alice.settled() == []
        _, kept = await call(server, "GET", "/api/v1/rooms/project:123/history")
        assert [event["type"] for event in kept["events"]] == ["user_joined"]
        assert (await call(server, "POST", EVENTS, [created("d")]))[0] == 200
        assert (await alice.recv())["data"]["title"] == "d"


async def test_a_thousand_events_at_once_and_no_more(serve: Serve):
    """1,000 are published; a longer list is refused whole."""
    server = await serve(history_size=2000)
    status, body = await call(server, "POST", EVENTS, [created()] * 1001)
    assert (status, body["code"]) == (422, "too_many_events")
    assert "1001" in body["error"]
    assert "1000" in body["error"]
    _, kept = await call(server, "GET", "/api/v1/rooms/project:123/history")
    assert kept["events"] == []
    status, body = await call(server, "POST", EVENTS, [created()] * 1000)
    assert (status, len(set(body["ids"]))) == (200, 1000)


async def test_a_schema_that_raises_is_the_servers_fault(serve: Serve, caplog: pytest.LogCaptureFixture):
    """500 in JSON without the reason, which is in the log; the server works on."""
    server = await serve(plugins=[broken])
    status, body = await call(server, "POST", EVENTS, {"type": "broken.event", "room": "task:1", "data": {"x": ""}})
    assert (status, body["code"]) == (500, "internal")
    assert "no thought" not in body["error"]
    assert "no thought was given to ''" in caplog.text
    assert (await call(server, "POST", EVENTS, created()))[0] == 200


# Bodies.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b'{"type": "task.created"', "truncated"),
        (b'{"type":\n  NaN}', "line 2, column 3"),
        (b"{} {}", "line 1, column 5"),
        (b'{"room": ' + b"1" * 5000 + b"}", "out of range"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"type": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        (b"type=task.created&room=project%3A1", "invalid character"),
    ],
    ids=["empty", "cut", "NaN", "two", "5000 digits", "deep", "bytes", "BOM", "form"],
)
async def test_broken_json_is_told_where_it_is_broken(serve: Serve, body: bytes, said: str):
    """400 with a sentence and the place, and the server works on."""
    server = await serve()
    status, refusal = await call(server, "POST", EVENTS, data=body)
    assert (status, refusal["code"]) == (400, "bad_json")
    assert said in refusal["error"]
    assert (await call(server, "POST", EVENTS, created()))[0] == 200


async def test_a_body_of_a_mebibyte_is_read_and_a_larger_one_is_not(serve: Serve):
    """413 in JSON, with or without its length told beforehand; up to the limit it is a body as any other."""
    server = await serve()
    body = json.dumps([created()]).encode()
    exact = body.ljust(1024 * 1024)
    assert (await call(server, "POST", EVENTS, data=exact))[0] == 200

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(exact), 65536):
            yield exact[start : start + 65536]
        yield b" "

    for data in (io.BytesIO(exact + b" "), chunks()):
        status, refusal = await call(server, "POST", EVENTS, data=data)
        assert (status, refusal["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in refusal["error"]


async def test_a_packed_body_is_measured_unpacked(serve: Serve, caplog: pytest.LogCaptureFixture):
    """A small body that unpacks to more than a mebibyte is refused; one that cannot be unpacked, too."""
    server = await serve()
    headers = {"Content-Encoding": "deflate"}
    good = zlib.compress(json.dumps(created()).encode())
    assert (await call(server, "POST", EVENTS, data=good, headers=headers))[0] == 200
    bomb = zlib.compress(b" " * 64 * 1024 * 1024)
    assert len(bomb) < 1024 * 1024
    status, refusal = await call(server, "POST", EVENTS, data=bomb, headers=headers)
    assert (status, refusal["code"]) == (413, "body_too_large")
    status, refusal = await call(server, "POST", EVENTS, data=b"\x00" * 100, headers=headers)
    assert (status, refusal["code"]) == (400, "bad_body")
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve):
    """After HANDSHAKE_TIMEOUT the answer is 408, and the connection is of no more use."""
    server = await serve(handshake_timeout=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
    await peer.send(head.encode() + b'{"type":')
    said = (await peer.head()).decode()
    assert said.startswith("HTTP/1.1 408 ")
    assert "application/json" in said
    assert "connection: close" in said.lower()
    body = await peer.read(int(re.search("(?i)content-length: ([0-9]+)", said)[1]))
    assert json.loads(body)["code"] == "body_too_slow"
    assert await peer.hung_up()
    peer.close()


# Rooms and users.


async def room_of_three(server: Server, room: str = "channel:1") -> None:
    """Publish three messages in ``room``."""
    data = {"username": "bot", "user_id": 0}
    events = [{"type": "message", "room": room, "data": {**data, "content": content}} for content in "abc"]
    assert (await call(server, "POST", EVENTS, events))[0] == 200


async def test_rooms_are_listed_with_the_number_of_their_users(serve: Serve):
    """By name, each with its users and not their tabs; rooms that all have left, and users' own, are not there."""
    server = await serve()
    assert await call(server, "GET", "/api/v1/rooms") == (200, {"rooms": []})
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        await alice.join("task:1")
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await bob.join("task:2")
        await bob.send("leave_room", "task:2")
        await bob.recv_type("left_room")
        rooms = [{"room": "channel:1", "members": 2}, {"room": "task:1", "members": 1}]
        assert await call(server, "GET", "/api/v1/rooms") == (200, {"rooms": rooms})


async def test_members_are_listed_with_their_connections(serve: Serve):
    """In the order they came, a user once, with the number of connections that are in the room."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, "bob-2", "bob") as bob:
        for one in (bob, alice, tab):
            await one.join("channel:1")
        members = [
            {"user_id": "bob-2", "username": "bob", "connections": 1},
            {"user_id": 1, "username": "alice", "connections": 2},
        ]
        path = "/api/v1/rooms/channel:1/members"
        assert await call(server, "GET", path) == (200, {"room": "channel:1", "members": members})
        await tab.socket.close()
        await alice.send("leave_room", "channel:1")
        await bob.recv_type("user_left")
        assert await call(server, "GET", path) == (200, {"room": "channel:1", "members": members[:1]})
    assert await call(server, "GET", "/api/v1/rooms/task:9/members") == (200, {"room": "task:9", "members": []})


async def test_the_history_is_given_as_clients_get_it(serve: Serve):
    """Oldest first, each event as it went over the sockets, with the id to go on from."""
    server = await serve()
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.recv_type("user_joined")
        await room_of_three(server)
        heard = [await alice.recv_type("message") for _ in range(3)]
    status, body = await call(server, "GET", "/api/v1/rooms/channel:1/history?limit=4")
    assert (status, body["room"], body["recovered"]) == (200, "channel:1", True)
    assert body["events"][:3] == heard
    assert body["events"][3]["type"] == "user_left"
    assert body["last_id"] == body["events"][3]["id"]


async def test_the_history_goes_on_from_an_id(serve: Serve):
    """The oldest ``limit`` after ``since``, and whether there are more; without it the newest ``limit``."""
    server = await serve()
    await room_of_three(server)
    path = "/api/v1/rooms/channel:1/history"
    _, everything = await call(server, "GET", path)
    a, b, c = everything["events"]
    for query, events, recovered, more in [
        (f"since={a['id']}", [b, c], True, False),
        (f"since={c['id']}", [], True, False),
        (f"since={c['id']}&limit=1", [], True, False),
        (f"since={a['id']}&limit=2", [b, c], True, False),
        (f"since={a['id']}&limit=1", [b], True, True),
        (f"since={b['id']}&limit=1", [c], True, False),
        ("since=elsewhere-1", [], False, False),
        ("since=", [], False, False),
        ("limit=2", [b, c], True, False),
        ("limit=1000", [a, b, c], True, False),
    ]:
        status, body = await call(server, "GET", f"{path}?{query}")
        assert (status, body["events"], body["recovered"], body["more"]) == (200, events, recovered, more), query
        assert body["last_id"] == c["id"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "sinse=1-1", "limit=1&limit=2"]
)
async def test_a_wrong_query_is_refused_and_not_guessed_at(serve: Serve, query: str):
    """400 with the name of the parameter: a misspelt ``since`` would otherwise give everything."""
    server = await serve()
    status, body = await call(server, "GET", f"/api/v1/rooms/channel:1/history?{query}")
    assert (status, body["code"]) == (400, "bad_query")
    assert query.partition("=")[0] in body["error"]


async def test_a_kicked_user_is_told_and_so_is_the_room(serve: Serve):
    """All the user's connections are out, everyone else stays, and nothing keeps the user from coming back."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await alice.join("channel:2")
        path = "/api/v1/rooms/channel:1/members/1"
        assert await call(server, "DELETE", path) == (200, {"room": "channel:1", "user_id": 1, "connections": 2})
        for one in (alice, tab):
            assert (await one.recv_type("left_room"))["room"] == "channel:1"
        assert (await bob.recv_type("user_left"))["data"]["user_id"] == 1
        await room_of_three(server)
        assert not [frame for frame in await alice.settled() if frame["type"] == "message"]
        assert len([frame for frame in await bob.settled() if frame["type"] == "message"]) == 3
        rooms = [{"room": "channel:1", "members": 1}, {"room": "channel:2", "members": 1}]
        assert await call(server, "GET", "/api/v1/rooms") == (200, {"rooms": rooms})
        assert (await alice.join("channel:1"))["room"] == "channel:1"


async def test_a_disconnected_user_is_closed_everywhere(serve: Serve):
    """All connections of the user end with 4410, nobody else's do, and the user may come back."""
    server = await serve()
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        path = "/api/v1/users/1/connections"
        assert await call(server, "DELETE", path) == (200, {"user_id": 1, "connections": 2})
        assert await alice.closed() == (4410, "Disconnected")
        assert await tab.closed() == (4410, "Disconnected")
        assert await bob.settled() == []
        async with connect(server) as again:
            assert again.welcome["type"] == "connected"


@pytest.mark.parametrize(("text", "user_id"), [("7", 7), ("007", "007"), ("bob-2", "bob-2"), ("9" * 17, "9" * 17)])
async def test_a_user_in_a_path_is_who_tokens_say(serve: Serve, text: str, user_id: int | str):
    """A decimal id is the number, as it is in a token; what is no number is a name."""
    server = await serve()
    async with connect(server, text, "someone") as someone:
        assert someone.welcome["data"]["user_id"] == user_id
        await someone.join("channel:1")
        path = f"/api/v1/rooms/channel:1/members/{text}"
        assert await call(server, "DELETE", path) == (
            200,
            {"room": "channel:1", "user_id": user_id, "connections": 1},
        )
        assert (await call(server, "DELETE", f"/api/v1/users/{text}/connections"))[1]["connections"] == 1
        assert await someone.closed() == (4410, "Disconnected")


async def test_an_unknown_user_is_no_error(serve: Serve):
    """Whoever is not there is out already: 0 connections."""
    server = await serve()
    kicked = {"room": "channel:1", "user_id": 1, "connections": 0}
    assert await call(server, "DELETE", "/api/v1/rooms/channel:1/members/1") == (200, kicked)
    assert await call(server, "DELETE", "/api/v1/users/1/connections") == (200, {"user_id": 1, "connections": 0})


@pytest.mark.parametrize("tail", ["members", "history", "members/1"])
@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("nowhere", "bad_room"),
        ("channel:*", "bad_room"),
        ("channel:%7B1%7D", "bad_room"),
        ("channel:1%0d%0aX", "bad_room"),
        ("channel:a%2Fb", "bad_room"),
        ("channel:%FF", "bad_room"),
        ("channel:" + "1" * 129, "bad_room"),
        ("planet:1", "unknown_room_type"),
    ],
)
async def test_a_name_that_is_no_rooms_is_told_so(serve: Serve, room: str, code: str, tail: str):
    """422 with a sentence, whatever the name is made of."""
    server = await serve()
    method = "DELETE" if tail == "members/1" else "GET"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:
        where = URL(url(server, f"/api/v1/rooms/{room}/{tail}"), encoded=True)
        async with http.request(method, where) as response:
            body = await response.json()
            assert (response.status, body["code"]) == (422, code)
            assert body["error"].endswith(".")


async def test_an_id_that_is_no_users_is_told_so(serve: Serve):
    """422 with a sentence, in every call that names a user."""
    server = await serve()
    of_user = [f"/api/v1/users/a%20b/{rest}" for rest in ("connections", "tokens", "tokens/t")]
    for path in (*of_user, "/api/v1/rooms/channel:1/members/a%20b"):
        status, body = await call(server, "DELETE", path)
        assert (status, body["code"]) == (422, "bad_user")


# What is not there, and what is away.


async def test_what_is_not_there_is_answered_in_json(serve: Serve):
    """404 for a path, 405 with what there is for a method; the key is asked for by neither."""
    server = await serve()
    for method, path in [
        ("GET", "/api/v1/"),
        ("PUT", "/api/v1/rooms/x"),
        ("GET", "/api/v1/users/1"),
    ]:
        status, body = await call(server, method, path, key=None)
        assert (status, body["code"]) == (404, "no_such_path"), path
    for method, path, allowed in [("PUT", EVENTS, "POST"), ("POST", "/api/v1/rooms", "GET, HEAD")]:
        async with answer(server, method, path, key=None) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)
            assert (await response.json())["code"] == "no_such_method"


async def test_no_answer_of_the_api_is_kept_by_a_cache(serve: Serve):
    """What is true now is not so in a moment, and is nobody else's business."""
    server = await serve()
    for path, key in [("/api/v1/rooms", KEY), ("/api/v1/rooms", None), ("/api/v1/nowhere", KEY)]:
        async with answer(server, "GET", path, key=key) as response:
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_while_the_broker_is_away_the_caller_is_asked_to_come_back(serve: Serve, method: str, path: str):
    """503 with Retry-After and the part that is down."""
    server = await serve()
    await server.gateway.broker.close()
    async with answer(server, method, path, created()) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        body = await response.json()
        assert body["code"] == "unavailable"
        assert "embedded broker is not running" in body["error"]
