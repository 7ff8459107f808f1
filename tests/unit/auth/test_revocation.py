"""Revoked tokens: refused at every door, their connections closed, and nobody else's."""

from __future__ import annotations

import time
from typing import Any

import pytest
from serving import PATH, SECRET, Serve, call, connect, refused, token_for

from roomcast.auth.identity import Authenticator, Identity
from roomcast.auth.revocation import Revocations
from roomcast.broker.memory import MemoryBroker
from roomcast.errors import AuthenticationFailed
from roomcast.settings import Settings

REFUSED = (4401, "Authentication Failed")
OF_ALICE = "/api/v1/users/1/tokens"
ROOM = "channel:1"


def at(token: str) -> str:
    """Where one connects with ``token``."""
    return f"{PATH}?token={token}"


async def test_all_tokens_of_a_user_are_refused_and_their_connections_closed(serve: Serve):
    """With 4401, which says that a new token is needed; nobody else is touched, and the room hears who left."""
    server = await serve()
    old = token_for(iat=time.time())
    async with connect(server, token=old) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        await alice.join(ROOM)
        await bob.join(ROOM)
        status, body = await call(server, "DELETE", OF_ALICE)
        assert (status, body["user_id"]) == (200, 1)
        assert 0 < body["before"] - time.time() <= 1
        for user in (alice, tab):
            assert await user.closed() == REFUSED
        assert (await bob.recv_type("user_left"))["data"]["username"] == "alice"
        for token in (old, token_for(), token_for(iat="yesterday"), token_for(user_id="1")):
            assert await refused(server, at(token)) == REFUSED
        assert await bob.settled() == []


async def test_a_token_issued_later_is_good(serve: Serve):
    """The time in the answer, a whole second, is the first at which a token may have been issued."""
    server = await serve()
    _, body = await call(server, "DELETE", OF_ALICE)
    assert await refused(server, at(token_for(iat=body["before"] - 1))) == REFUSED
    async with connect(server, token=token_for(iat=body["before"])) as alice:
        await call(server, "DELETE", f"{OF_ALICE}?before={body['before']}")
        assert (await alice.join(ROOM))["room"] == ROOM


async def test_an_earlier_time_takes_nothing_back(serve: Serve):
    """Of two revocations the one that covers more holds."""
    server = await serve()
    now = int(time.time())
    await call(server, "DELETE", f"{OF_ALICE}?before={now}")
    assert await call(server, "DELETE", f"{OF_ALICE}?before={now - 99.5}") == (
        200,
        {"user_id": 1, "before": now - 99.5},
    )
    assert await refused(server, at(token_for(iat=now - 1))) == REFUSED
    async with connect(server, token=token_for(iat=now)):
        pass


async def test_one_token_is_revoked_by_its_id(serve: Serve):
    """Only connections with that token end, and the same id at another user is another token's."""
    server = await serve()
    stolen = token_for(jti="a/b c%41 ✓")
    async with (
        connect(server, token=stolen) as thief,
        connect(server, token=token_for(jti="mine")) as alice,
        connect(server) as tab,
        connect(server, token=token_for(2, "bob", jti="a/b c%41 ✓")) as bob,
    ):
        path = f"{OF_ALICE}/a%2Fb%20c%2541%20%E2%9C%93"
        assert await call(server, "DELETE", path) == (200, {"user_id": 1, "jti": "a/b c%41 ✓"})
        assert await thief.closed() == REFUSED
        assert await refused(server, at(stolen)) == REFUSED
        for user in (alice, tab, bob):
            assert await user.settled() == []


async def test_a_token_whose_id_is_a_number_is_revoked_too(serve: Serve):
    """RFC 7519 wants a text, backends that count theirs give a number: its digits name it in the path."""
    server = await serve()
    async with connect(server, token=token_for(jti=42)) as thief, connect(server, token=token_for(jti=True)) as alice:
        for jti in ("42", "True", "1", "true"):
            assert (await call(server, "DELETE", f"{OF_ALICE}/{jti}"))[0] == 200
        assert await thief.closed() == REFUSED
        assert await refused(server, at(token_for(jti=42))) == REFUSED
        assert await alice.settled() == []


async def test_a_ticket_is_as_good_as_its_token(serve: Serve):
    """A ticket got before cannot be used, and none is given any more."""
    server = await serve()
    token = token_for(jti="7")
    _, body = await call(server, "POST", "/api/v1/tickets", key=token)
    await call(server, "DELETE", f"{OF_ALICE}/7")
    assert await refused(server, f"{PATH}?ticket={body['ticket']}") == REFUSED
    status, body = await call(server, "POST", "/api/v1/tickets", key=token)
    assert (status, body["code"], body["error"]) == (401, "bad_token", "The token was revoked.")


async def test_nobody_goes_on_with_a_revoked_token(serve: Serve):
    """refresh_token refuses it and the connection lives on with its own; with a good one it is out of reach."""
    server = await serve()
    async with connect(server, token=token_for(jti="first")) as alice:
        await call(server, "DELETE", f"{OF_ALICE}/second")
        await alice.send("refresh_token", data={"token": token_for(jti="second")}, id=1)
        error = await alice.recv_type("error", id=1)
        assert (error["data"]["code"], "revoked" in error["data"]["error"]) == ("bad_token", True)
        await alice.send("refresh_token", data={"token": token_for(jti="third")})
        await alice.recv_type("token_refreshed")
        await call(server, "DELETE", f"{OF_ALICE}/first")
        await alice.send("ping")
        await alice.recv_type("pong")
        await call(server, "DELETE", f"{OF_ALICE}/third")
        assert await alice.closed() == REFUSED


async def test_a_revoked_user_takes_no_slot(serve: Serve):
    """Whoever is refused holds none of the user's connections."""
    server = await serve(max_connections_per_user=1)
    await call(server, "DELETE", OF_ALICE)
    for _ in range(3):
        assert await refused(server, at(token_for())) == REFUSED
    assert await server.gateway.broker.connections(1) == 0


async def test_a_revocation_ends_after_its_time(serve: Serve):
    """REVOCATION_TTL: no token may be valid for longer than that."""
    server = await serve(revocation_ttl=0.001)
    await call(server, "DELETE", OF_ALICE)
    time.sleep(0.002)  # the broker's clock, which is the system's, has to pass
    async with connect(server) as alice:
        assert alice.welcome["type"] == "connected"


class Late(MemoryBroker):
    """A broker whose answers are overtaken: after each of ``meanwhile`` was revoked, it says what was so before."""

    meanwhile = ()

    async def is_revoked(self, *args: Any) -> bool:
        answer = await super().is_revoked(*args)
        todo, self.meanwhile = self.meanwhile, ()
        for work in todo:
            await work
        return answer

    async def admit(self, *args: Any) -> bool:
        admitted = await super().admit(*args)
        todo, self.between = self.between, ()
        for work in todo:
            await work
        return admitted

    between = ()


@pytest.mark.parametrize("when", ["meanwhile", "between"])
async def test_a_revocation_is_not_slipped_past(serve: Serve, when: str):
    """Who is on the way in while the token is revoked is refused, and gives back what was taken."""
    broker = Late()
    server = await serve(broker=broker)
    setattr(broker, when, (server.gateway.revocations.revoke_all(1, time.time() + 1),))
    assert await refused(server, at(token_for())) == REFUSED
    assert await broker.connections(1) == 0
    assert not server.gateway.delivery.personal


async def test_a_refresh_does_not_slip_past_a_revocation(serve: Serve):
    """The new token is revoked while the broker is asked about it: it is refused."""
    broker = Late()
    server = await serve(broker=broker)
    async with connect(server, token=token_for(jti="1")) as alice:
        broker.meanwhile = (server.gateway.revocations.revoke_one(1, "2"),)
        await alice.send("refresh_token", data={"token": token_for(jti="2")})
        assert (await alice.recv_type("error"))["data"]["code"] == "bad_token"
        assert alice.heard[-1]["type"] == "error"


@pytest.mark.parametrize(
    "query", ["before=x", "before=-1", "before=", "before=1e9", "before=nan", "before=99999999999", "since=1", "q"]
)
async def test_a_wrong_time_is_told_so_and_revokes_nothing(serve: Serve, query: str):
    """Also one in milliseconds, or ahead: it would keep the user out until then."""
    server = await serve()
    async with connect(server) as alice:
        status, body = await call(server, "DELETE", f"{OF_ALICE}?{query}")
        assert (status, body["code"]) == (400, "bad_query")
        status, body = await call(server, "DELETE", f"{OF_ALICE}?before={int(time.time()) + 3600}")
        assert (status, "not in the future" in body["error"]) == (400, True)
        assert await alice.settled() == []


async def test_a_query_for_one_token_is_refused(serve: Serve):
    """A time, say, that would be without effect: nothing is revoked."""
    server = await serve()
    async with connect(server, token=token_for(jti="t")) as alice:
        status, body = await call(server, "DELETE", f"{OF_ALICE}/t?before=1")
        assert (status, body["error"]) == (400, "'before': the query must be empty.")
        assert await alice.settled() == []


async def test_the_log_says_who_was_closed(serve: Serve, caplog: pytest.LogCaptureFixture):
    """An operator finds user, address and reason, and no token id, which could be a secret."""
    caplog.set_level("INFO", "roomcast")
    server = await serve()
    async with connect(server, token=token_for(jti="s3cret-id")) as alice:
        await call(server, "DELETE", f"{OF_ALICE}/s3cret-id")
        await alice.closed()
        await call(server, "DELETE", f"{OF_ALICE}?before=1000000000.5")
    assert "token revoked: user 1 (alice) from 127.0.0.1: closed" in caplog.messages
    assert "revoked a token of user 1" in caplog.messages
    assert "revoked the tokens of user 1 from before 1000000000.5" in caplog.messages
    assert "s3cret-id" not in caplog.text


def identity(**claims: Any) -> Identity:
    """Who a token with ``claims`` is for."""
    return Authenticator(Settings(jwt_secret=SECRET)).verify(token_for(**claims))


async def test_a_check_asks_again_only_after_a_revocation():
    """With what an earlier check knew, the broker is left alone until something was revoked."""

    class Counting(MemoryBroker):
        asked = 0

        async def is_revoked(self, *args: Any) -> bool:
            self.asked += 1
            return await super().is_revoked(*args)

    class Nobody:
        def on_signal(self, message: bytes) -> None:
            revocations.changed()

    broker = Counting()
    revocations = Revocations(broker, 60)
    await broker.start(Nobody())  # type: ignore[arg-type]  # nothing else happens here
    try:
        known = await revocations.check(identity(jti="1"))
        assert await revocations.check(identity(jti="1"), known) == known
        assert broker.asked == 1
        await revocations.revoke_one(1, "1")
        with pytest.raises(AuthenticationFailed, match="revoked"):
            await revocations.check(identity(jti="1"), known)
        await revocations.check(identity(jti="2"), known)
    finally:
        await broker.close()
