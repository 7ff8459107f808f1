"""Tests of ``auth.revocation``: revoked tokens are refused, and their connections closed."""

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
    """Return the path to connect to with ``token``."""
    return f"{PATH}?token={token}"


async def test_all_tokens_of_a_user(serve: Serve) -> None:
    """The tokens are refused and the connections closed with 4401; others stay, and the room gets user_left."""
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


async def test_a_token_issued_later_is_valid(serve: Serve) -> None:
    """The response has the first whole second from which issued tokens are valid."""
    server = await serve()
    _, body = await call(server, "DELETE", OF_ALICE)
    assert await refused(server, at(token_for(iat=body["before"] - 1))) == REFUSED
    async with connect(server, token=token_for(iat=body["before"])) as alice:
        await call(server, "DELETE", f"{OF_ALICE}?before={body['before']}")
        assert (await alice.join(ROOM))["room"] == ROOM


async def test_a_token_of_an_issuer_whose_clock_is_ahead(serve: Serve) -> None:
    """A token in use is revoked, although its iat is later than the revocation, and cannot be used again."""
    server = await serve()
    now = int(time.time())
    ahead, later = token_for(iat=now + 40), token_for(iat=now + 45)
    async with connect(server, token=ahead) as alice, connect(server, token=token_for(iat=now + 30)) as tab:
        await call(server, "DELETE", OF_ALICE)
        assert await alice.closed() == await tab.closed() == REFUSED
        for token in (ahead, token_for(iat=now + 30), token_for(iat=now)):
            assert await refused(server, at(token)) == REFUSED
        async with connect(server, token=later) as again:
            assert (await again.join(ROOM))["room"] == ROOM


async def test_a_time_in_the_past_is_taken_at_its_word(serve: Serve) -> None:
    """Then only tokens whose iat is earlier are revoked, also if the clock of the issuer is ahead."""
    server = await serve()
    now = int(time.time())
    async with (
        connect(server, token=token_for(iat=now + 40)) as ahead,
        connect(server, token=token_for(iat=now - 5)) as alice,
        connect(server, token=token_for(iat=now - 15)) as old,
    ):
        await call(server, "DELETE", f"{OF_ALICE}?before={now - 10}")
        assert await old.closed() == REFUSED
        for user in (ahead, alice):
            await user.join(ROOM)


async def test_a_token_from_the_future_is_refused(serve: Serve) -> None:
    """It gets 4401 when it connects, and no ticket."""
    server = await serve()
    token = token_for(iat=time.time() + 3600)
    assert await refused(server, at(token)) == REFUSED
    status, body = await call(server, "POST", "/api/v1/tickets", key=token)
    assert (status, body["code"]) == (401, "bad_token")
    assert "s in the future" in body["error"]


async def test_an_earlier_time_does_not_undo_a_revocation(serve: Serve) -> None:
    """Of two revocations, the one of more tokens remains in force."""
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


async def test_one_token(serve: Serve) -> None:
    """Only connections with that token are closed; the same token id of another user is another token."""
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


async def test_a_token_whose_id_is_a_number(serve: Serve) -> None:
    """A numeric jti is revoked by its digits, although RFC 7519 requires a string."""
    server = await serve()
    async with connect(server, token=token_for(jti=42)) as thief, connect(server, token=token_for(jti=True)) as alice:
        for jti in ("42", "True", "1", "true"):
            assert (await call(server, "DELETE", f"{OF_ALICE}/{jti}"))[0] == 200
        assert await thief.closed() == REFUSED
        assert await refused(server, at(token_for(jti=42))) == REFUSED
        assert await alice.settled() == []


async def test_tickets_of_a_revoked_token(serve: Serve) -> None:
    """An older ticket cannot be used, and no new ticket is issued."""
    server = await serve()
    token = token_for(jti="7")
    _, body = await call(server, "POST", "/api/v1/tickets", key=token)
    await call(server, "DELETE", f"{OF_ALICE}/7")
    assert await refused(server, f"{PATH}?ticket={body['ticket']}") == REFUSED
    status, body = await call(server, "POST", "/api/v1/tickets", key=token)
    assert (status, body["code"], body["error"]) == (401, "bad_token", "The token was revoked.")


async def test_a_refresh_with_a_revoked_token_is_refused(serve: Serve) -> None:
    """refresh_token refuses it and the connection stays; after a refresh, only the newest token counts."""
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


async def test_a_refused_connection_does_not_count(serve: Serve) -> None:
    """A connection that is refused does not count against the user's limit."""
    server = await serve(max_connections_per_user=1)
    await call(server, "DELETE", OF_ALICE)
    for _ in range(3):
        assert await refused(server, at(token_for())) == REFUSED
    assert await server.gateway.broker.connections(1) == 0


async def test_a_revocation_ends_after_revocation_ttl(serve: Serve) -> None:
    """After REVOCATION_TTL, which is longer than any token is valid, the token is accepted."""
    server = await serve(revocation_ttl=0.001)
    await call(server, "DELETE", OF_ALICE)
    time.sleep(0.002)  # the broker's clock, which is the system's, has to pass
    async with connect(server) as alice:
        assert alice.welcome["type"] == "connected"


class Late(MemoryBroker):
    """A broker that runs ``meanwhile`` between a check and its answer, and ``between`` after an admission."""

    meanwhile = ()

    async def is_revoked(self, *args: Any) -> bool:
        answer = await super().is_revoked(*args)
        work, self.meanwhile = self.meanwhile, ()
        for one in work:
            await one
        return answer

    async def admit(self, *args: Any) -> bool:
        admitted = await super().admit(*args)
        work, self.between = self.between, ()
        for one in work:
            await one
        return admitted

    between = ()


@pytest.mark.parametrize("when", ["meanwhile", "between"])
async def test_a_revocation_during_admission(serve: Serve, when: str) -> None:
    """A client whose token is revoked during its admission is refused, and its admission is undone."""
    broker = Late()
    server = await serve(broker=broker)
    setattr(broker, when, (server.gateway.revocations.revoke_all(1, time.time() + 1),))
    assert await refused(server, at(token_for())) == REFUSED
    assert await broker.connections(1) == 0
    assert not server.gateway.delivery.personal


async def test_a_revocation_during_a_refresh(serve: Serve) -> None:
    """A new token that is revoked while the broker checks it is refused."""
    broker = Late()
    server = await serve(broker=broker)
    async with connect(server, token=token_for(jti="1")) as alice:
        broker.meanwhile = (server.gateway.revocations.revoke_one(1, "2"),)
        await alice.send("refresh_token", data={"token": token_for(jti="2")})
        assert (await alice.recv_type("error"))["data"]["code"] == "bad_token"
        assert alice.frames[-1]["type"] == "error"


@pytest.mark.parametrize(
    "query", ["before=x", "before=-1", "before=", "before=1e9", "before=nan", "before=99999999999", "since=1", "q"]
)
async def test_an_invalid_time_is_refused(serve: Serve, query: str) -> None:
    """An invalid time, in milliseconds or in the future for example, is refused and revokes nothing."""
    server = await serve()
    async with connect(server) as alice:
        status, body = await call(server, "DELETE", f"{OF_ALICE}?{query}")
        assert (status, body["code"]) == (400, "bad_query")
        status, body = await call(server, "DELETE", f"{OF_ALICE}?before={int(time.time()) + 3600}")
        assert (status, "not in the future" in body["error"]) == (400, True)
        assert await alice.settled() == []


async def test_a_query_is_refused_for_one_token(serve: Serve) -> None:
    """A time would have no effect for one token, so it is refused and nothing is revoked."""
    server = await serve()
    async with connect(server, token=token_for(jti="t")) as alice:
        status, body = await call(server, "DELETE", f"{OF_ALICE}/t?before=1")
        assert (status, body["error"]) == (400, "'before': the query must be empty.")
        assert await alice.settled() == []


async def test_log_of_a_revocation(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The log has user, address and reason, but no token id, which could be secret."""
    caplog.set_level("INFO", "roomcast")
    server = await serve()
    async with connect(server, token=token_for(jti="s3cret-id")) as alice:
        await call(server, "DELETE", f"{OF_ALICE}/s3cret-id")
        await alice.closed()
        await call(server, "DELETE", f"{OF_ALICE}?before=1000000000.5")
    assert "token revoked: user 1 (alice) from 127.0.0.1: closed" in caplog.messages
    for what in ("a token of user 1", "the tokens of user 1 from before 1000000000.5"):
        assert f"revoked {what}, with the key API_KEY from 127.0.0.1" in caplog.messages
    assert "s3cret-id" not in caplog.text


def identity(**claims: Any) -> Identity:
    """Return the identity of a token with ``claims``."""
    return Authenticator(Settings(jwt_secret=SECRET)).verify(token_for(**claims))


async def test_a_check_with_a_revision_asks_only_after_a_revocation() -> None:
    """A check with the revision of an earlier one does not ask the broker, unless there was a revocation."""

    class Counting(MemoryBroker):
        checks = 0

        async def is_revoked(self, *args: Any) -> bool:
            self.checks += 1
            return await super().is_revoked(*args)

    class SignalListener:
        def on_signal(self, message: bytes) -> None:
            revocations.invalidate_checks()

    broker = Counting()
    revocations = Revocations(broker, 60)
    await broker.start(SignalListener())  # type: ignore[arg-type]  # nothing else is called
    try:
        revision = await revocations.check(identity(jti="1"))
        assert await revocations.check(identity(jti="1"), revision) == revision
        assert broker.checks == 1
        await revocations.revoke_one(1, "1")
        with pytest.raises(AuthenticationFailed, match="revoked"):
            await revocations.check(identity(jti="1"), revision)
        await revocations.check(identity(jti="2"), revision)
    finally:
        await broker.close()
