"""Tests of ``Roomcast`` and ``AsyncRoomcast``, each against a real server, and against servers that fail."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
import traceback
from datetime import datetime
from typing import Any

import httpx
import jwt
import pytest
from python_client import KINDS, QUICK, answer, failure, lost, open_client, run_python, scripted
from serving import KEY, SECRET, Serve, connect, url

from roomcast_client import (
    AsyncRoomcast,
    AuthenticationFailed,
    BadResponse,
    Conflict,
    Event,
    PermissionDenied,
    Refused,
    Retries,
    Roomcast,
    RoomcastError,
    ServerFailed,
    Unreachable,
    mint_token,
    personal_room,
)

Kind = type[Roomcast] | type[AsyncRoomcast]
TASK = {"task_id": 1, "title": "A"}
KEY_OF_NOBODY = "a-key-that-must-not-be-shown"
both = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def test_both_clients_have_the_same_methods() -> None:
    """Each method has the same parameters and the same docstring."""

    def methods(kind: type[Any]) -> dict[str, tuple[inspect.Signature, str | None]]:
        public = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
        return {
            {"aclose": "close"}.get(name, name): (inspect.signature(value), inspect.getdoc(value))
            for name, value in public.items()
        }

    assert methods(Roomcast) == methods(AsyncRoomcast)


@both
async def test_events_are_published_and_read(kind: Kind, serve: Serve) -> None:
    """One event, a list, and the pages of the history."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client:
        first = await client.publish("task.created", "task:1", TASK, sender="alice", key="a")
        assert await client.publish("task.created", "task:1", TASK, sender="alice", key="a") == first
        events = [Event("task.deleted", "task:1", {"task_id": n}) for n in (1, 2)]
        ids = await client.batch(events)
        history = await client.history("task:1")
        assert [event["id"] for event in history.events] == [first, *ids]
        assert history.events[0]["sender"] == "alice" and history.events[0]["key"] == "a"
        assert (history.last_id, history.recovered, history.more) == (ids[-1], True, False)
        page = await client.history("task:1", since=first, limit=1)
        assert [event["id"] for event in page.events] == ids[:1]
        assert (page.recovered, page.more) == (True, True)
        typing = {"user_id": 1, "username": "alice", "typing": True}
        assert await client.publish("typing", "channel:1", typing) is None
        assert await client.batch([]) == []


@both
async def test_rooms_and_members_are_listed_and_removed(kind: Kind, serve: Serve) -> None:
    """Members are listed, kicked and disconnected."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client, connect(server, 7, "alice") as alice:
        await alice.join("channel:1")
        assert await client.rooms() == [("channel:1", 1)]
        assert await client.members("channel:1") == [(7, "alice", 1)]
        assert await client.kick("channel:1", 7) == 1
        await alice.recv_type("left_room")
        assert await client.members("channel:1") == []
        assert await client.disconnect(7) == 1
        assert await alice.closed() == (4410, "Disconnected")
        assert await client.disconnect(7) == 0


@both
async def test_users_are_online_or_not(kind: Kind, serve: Serve) -> None:
    """The status has times, and the statuses of many users have the order of the ids."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client, connect(server, 7, "alice") as alice:
        await alice.join("channel:1")
        status = await client.online(7)
        assert status[:5] == (7, True, 1, ["channel:1"], True)
        assert isinstance(status.since, datetime) and status.since.utcoffset() is not None and status.last_seen is None
        bob, same = await client.online_many(["bob", 7])
        assert bob == ("bob", False, 0, [], True, None, None)
        assert same == status


@both
@pytest.mark.parametrize("user_id", ["auth0|5f7c1", "a/b", "100%", "%2F", "ä ö", "CORP\\ann", "a?b#c", "..."])
async def test_any_user_id_works(kind: Kind, serve: Serve, user_id: str) -> None:
    """The id is encoded in paths, in the name of the personal room and in the token."""
    server = await serve()
    token = mint_token(SECRET, user_id)
    async with open_client(kind, url(server, ""), KEY) as client, connect(server, token=token) as user:
        assert (await client.online(user_id)).online
        await client.publish("notification.new", personal_room(user_id), {"title": "A", "message": "B"})
        assert (await user.recv_type("notification.new"))["data"]["title"] == "A"
        assert await client.disconnect(user_id) == 1
        assert await user.closed() == (4410, "Disconnected")


@both
async def test_tokens_are_revoked(kind: Kind, serve: Serve) -> None:
    """One token by its id, and all tokens; one that is minted after that is accepted."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client:
        one, other = mint_token(SECRET, 7, jti="a/1"), mint_token(SECRET, 7)
        async with connect(server, token=one) as alice:
            assert await client.revoke_token(7, "a/1") is None
            assert (await alice.closed())[0] == 4401
        async with connect(server, token=other) as alice:
            before = await client.revoke(7)
            assert (await alice.closed())[0] == 4401
        assert await client.revoke(7, before=before - 10.25) == before - 10.25
        with pytest.raises(AuthenticationFailed):
            await client.ticket(other)
        async with connect(server, token=mint_token(SECRET, 7, not_before=before)) as alice:
            assert alice.welcome["data"]["user_id"] == 7


@both
async def test_a_ticket_opens_one_connection(kind: Kind, serve: Serve) -> None:
    """The request has the user's token instead of the key."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client:
        ticket = await client.ticket(mint_token(SECRET, 7))
        assert ticket.expires_in == 30 and ticket.ticket not in repr(ticket)
        async with connect(server, path=f"/api/v1/ws/connect?ticket={ticket.ticket}") as alice:
            assert alice.welcome["data"]["user_id"] == 7


@both
async def test_refusals_have_codes_and_fields(kind: Kind, serve: Serve) -> None:
    """Each kind of refusal is an exception of its own, with what the server says about it."""
    server = await serve()
    async with open_client(kind, url(server, ""), KEY) as client:
        with pytest.raises(Refused, match=r"title: Missing data .*\(422 invalid_data\)") as refused:
            await client.publish("task.created", "task:1", {"task_id": 1})
        assert refused.value.fields == {"title": ["Missing data for required field."]}
        assert [problem.field for problem in refused.value.problems] == ["data.title"]
        with pytest.raises(Refused) as refused:
            await client.batch(
                [Event("task.created", "task:1", TASK), Event("x", "y"), Event("task.created", "z:1", TASK)]
            )
        assert refused.value.code == "invalid_events"
        assert {(problem.index, problem.field) for problem in refused.value.problems} >= {(1, "type"), (2, "room")}
        assert (await client.history("task:1")).events == []
        await client.publish("task.created", "task:1", TASK, key="k")
        with pytest.raises(Conflict) as conflict:
            await client.publish("task.created", "task:1", TASK | {"title": "B"}, key="k")
        assert conflict.value.code == "key_reused"
        with pytest.raises(Refused) as refused:
            await client.members("no room")
        assert refused.value.code == "bad_room"
    async with open_client(kind, url(server, ""), KEY_OF_NOBODY) as client:
        with pytest.raises(AuthenticationFailed) as failed:
            await client.rooms()
        assert failed.value.code == "unauthorized"
    server = await serve(api_key=None)
    async with open_client(kind, url(server, ""), KEY) as client:
        with pytest.raises(PermissionDenied) as denied:
            await client.rooms()
        assert denied.value.code == "api_off"


@both
async def test_a_publish_whose_answer_is_lost_is_not_published_twice(kind: Kind, serve: Serve) -> None:
    """The connection breaks after the server has published. The repeat has the same key and gets the same id."""
    server = await serve()
    lost_answers = 2

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, and pass its answer back only if no more answers are to be lost."""
        nonlocal lost_answers
        there, here = await asyncio.open_connection("127.0.0.1", server.port)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        here.write(head.replace(b"keep-alive", b"close") + await reader.readexactly(length))
        response = await there.read()
        if lost_answers:
            lost_answers -= 1
        else:
            writer.write(response)
        writer.close()
        here.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
        where = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with open_client(kind, where, KEY, retries=QUICK) as client:
            id = await client.publish("task.created", "task:1", TASK)
    async with open_client(kind, url(server, ""), KEY) as client:
        assert [event["id"] for event in (await client.history("task:1")).events] == [id]
    assert lost_answers == 0


@both
async def test_repeats_have_the_same_key_and_body(kind: Kind) -> None:
    """After a lost connection, an answer of a proxy and two of roomcast, the fifth attempt succeeds."""
    steps = (lost, failure(503, "unavailable"), failure(409, "in_progress"), failure(429, "x"), answer({"id": "e-1"}))
    async with scripted(*steps) as server, open_client(kind, server.url, KEY, retries=QUICK) as client:
        assert await client.publish("a", "b:1", {"x": "ä"}) == "e-1"
        assert len({(headers["Idempotency-Key"], body) for _, _, headers, body in server.requests}) == 1
    assert [path for _, path, _, _ in server.requests] == ["/api/v1/events"] * 5


@both
async def test_a_path_of_the_url_is_kept(kind: Kind) -> None:
    """For servers behind a proxy; encoded parts stay as they are."""
    step = answer({"members": []})
    async with scripted(step) as server, open_client(kind, f"{server.url}/live/", KEY) as client:
        await client.members("user:a%7Cb")
    assert [path for _, path, _, _ in server.requests] == ["/live/api/v1/rooms/user%3Aa%257Cb/members"]


@both
async def test_the_last_error_is_raised_at_the_deadline(kind: Kind) -> None:
    """A server that is down for longer than the deadline is ``Unreachable``, one that fails ``ServerFailed``."""
    short = Retries(first_pause=0.01, longest_pause=0.02, deadline=0.3)
    async with scripted(failure(503, "unavailable")) as server:
        async with open_client(kind, server.url, KEY, retries=short) as client:
            with pytest.raises(ServerFailed):
                await client.rooms()
        assert server.requests
    async with open_client(kind, server.url, KEY, retries=short) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.rooms()


@both
async def test_a_server_that_does_not_answer_is_given_up(kind: Kind) -> None:
    """An attempt ends after the timeout."""
    connected = []

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with open_client(kind, where, KEY, timeout=0.1, retries=Retries(deadline=0)) as client:
            with pytest.raises(Unreachable):
                await client.rooms()
        for writer in connected:
            writer.close()


@both
async def test_redirects_are_not_followed(kind: Kind) -> None:
    """The key is sent to no other server."""
    async with scripted(answer({"rooms": []})) as other:
        redirect = lambda: answer({}, 307, Location=f"{other.url}/api/v1/rooms")()  # noqa: E731
        async with scripted(redirect) as server, open_client(kind, server.url, KEY) as client:
            with pytest.raises(BadResponse, match="HTTP status 307"):
                await client.rooms()
    assert other.requests == []


@both
@pytest.mark.parametrize("step", [lost, failure(401, "unauthorized"), failure(503, "unavailable"), answer({})])
async def test_the_key_is_never_shown(kind: Kind, step: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the text of the client, in log lines, or in a traceback with the local variables of its frames."""
    caplog.set_level(logging.DEBUG)
    retries = Retries(first_pause=0.01, longest_pause=0.02, deadline=0.1)
    async with scripted(step) as server, open_client(kind, server.url, KEY_OF_NOBODY, retries=retries) as client:
        try:
            await client.publish("a", "b:1")
        except RoomcastError as error:
            report = traceback.TracebackException.from_exception(error, capture_locals=True)
            shown = "".join(report.format())
            assert not isinstance(error.__context__, httpx.HTTPError), "its frames have the key"
        assert all(headers["Authorization"] == f"Bearer {KEY_OF_NOBODY}" for _, _, headers, _ in server.requests)
        assert KEY_OF_NOBODY not in f"{shown}{caplog.text}{client.client!r}{vars(client.client)}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("where", "key"),
    [
        ("127.0.0.1:8000", KEY_OF_NOBODY),
        ("ftp://127.0.0.1", KEY_OF_NOBODY),
        (f"http://user:{KEY_OF_NOBODY}@127.0.0.1", "key"),
        (KEY_OF_NOBODY, "http://127.0.0.1"),
        ("http://127.0.0.1", ""),
        ("http://127.0.0.1", f"{KEY_OF_NOBODY}\n"),
        ("http://127.0.0.1", f"{KEY_OF_NOBODY}ä"),
    ],
)
def test_mistakes_are_found_at_once(kind: Any, where: str, key: str) -> None:
    """A wrong URL or key is a ``ValueError`` without the key."""
    with pytest.raises(ValueError, match=r"^The (URL|API key)") as refused:
        kind(where, key)
    assert KEY_OF_NOBODY not in str(refused.value)


async def test_calls_of_threads_share_a_client(serve: Serve) -> None:
    """20 threads publish with one client."""
    server = await serve()
    with Roomcast(url(server, ""), KEY) as client:
        ids = await asyncio.gather(
            *(asyncio.to_thread(client.publish, "task.created", "task:1", TASK) for _ in range(20))
        )
    assert len(set(ids)) == 20


FORKED = """
import os, sys
from roomcast_client import Roomcast
client = Roomcast(sys.argv[1], sys.argv[2])
client.publish("task.deleted", "task:1", {"task_id": 0})
if not (child := os.fork()):
    for n in range(50):
        client.publish("task.deleted", "task:1", {"task_id": n})
    os._exit(0)
for n in range(50):
    client.publish("task.deleted", "task:1", {"task_id": n})
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_process_that_forked_has_connections_of_its_own(serve: Serve) -> None:
    """Parent and child publish at the same time with a client that was used before the fork."""
    server = await serve()
    await run_python(server, FORKED, url(server, ""), KEY)
    async with open_client(Roomcast, url(server, ""), KEY) as client:
        assert len((await client.history("task:1")).events) == 101


async def test_a_cancelled_call_leaves_a_client_that_works(serve: Serve) -> None:
    """The next call of the client succeeds."""
    server = await serve()
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        task = asyncio.create_task(client.rooms())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.rooms() == []


def test_a_token_without_a_time_of_issue_is_not_minted() -> None:
    """A token without ``iat`` would count as revoked."""
    claims = jwt.decode(mint_token(SECRET, 1), options={"verify_signature": False})
    assert abs(claims["iat"] - time.time()) < 60 and claims["exp"] - claims["iat"] == pytest.approx(3600)


def test_the_client_uses_the_transport_that_it_is_given() -> None:
    """Tests replace the network with it."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"rooms": []}))
    assert Roomcast("http://roomcast.invalid", KEY, transport=transport).rooms() == []
