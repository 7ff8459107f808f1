"""roomcast.js in Chromium: tokens that are requested, refreshed, refused and revoked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from client_pages import (
    ROOM,
    browser,
    close_all,
    pool,
    proxy,
    server,
    stack,
    start,
)
from serving import token_for
from signed_tokens import sign_raw

__all__ = ["browser", "pool", "proxy", "server", "stack", "start"]

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_token_function_is_called_for_each_connection(start, server):
    """The argument has refused=false if the server accepted the previous token."""
    alice = await start(lambda about: token_for(), join=ROOM)
    close_all(server)
    await alice.until("framesOf('connected').length === 2")
    assert [about["refused"] for about in alice.token_requests] == [False, False]
    assert await alice.js("client.state") == "open"


async def test_token_is_refreshed_before_it_expires(start, server):
    """The connection outlives its first token, and the page only receives token_refreshed events."""
    alice = await start(lambda about: token_for(expires_in=2.5), join=ROOM)
    await alice.until("framesOf('token_refreshed').length === 2")
    assert await alice.js("framesOf('connected').length") == 1
    assert await alice.js("states()") == ["connecting", "open"]


async def test_expired_fixed_token_closes_the_client(start):
    """A client with a fixed token closes after 4401 and reports the reason."""
    alice = await start(token_for(expires_in=2), join=ROOM)
    await alice.until("client.state === 'closed'")
    assert await alice.js("[frames.at(-1).data.code, frames.at(-1).data.reason]") == [4401, "Authentication Failed"]


async def test_refused_token_is_replaced(start, server):
    """After 4401 the token function is called with refused=true. If it returns the same token, the client closes."""
    tokens = iter([token_for(expires_in=-1), token_for(), token_for()])
    alice = await start(lambda about: next(tokens))
    await alice.js("await client.connect()")
    assert [about["refused"] for about in alice.token_requests] == [False, True]
    old = token_for(expires_in=-1)
    bob = await start(lambda about: old)
    assert (await bob.js("await outcomes([client.connect()])"))[0]["code"] == "closed"
    assert await bob.js("frames.at(-1).data.code") == 4401
    assert len(bob.token_requests) == 2


async def test_new_token_is_requested_a_second_after_a_revocation(start, server):
    """Issue times are whole seconds, so a token from the second of the revocation would be refused as well."""
    alice = await start(lambda about: token_for(iat=int(time.time())), join=ROOM)
    for times in (1, 2):
        await server.gateway.revocations.revoke_all(1, int(time.time()) + 1)
        await alice.until(f"framesOf('connected').length === {times + 1}")
        assert len(alice.token_requests) == times + 1, "an unnecessary token request"
    assert await alice.js("states()") == ["connecting", "open", *["waiting", "connecting", "open"] * 2]


async def test_failing_token_function_is_called_again(start):
    """A token function that throws is called again after a delay. If it returns nothing, the client closes."""
    tries = iter([True, True, False])

    def flaky(about: dict[str, Any]) -> str:
        if next(tries):
            raise RuntimeError("the application is down")
        return token_for()

    alice = await start(flaky)
    await alice.js("await client.connect()")
    assert await alice.js("states()") == ["connecting", "waiting", "connecting", "waiting", "connecting", "open"]
    assert "the application is down" in await alice.js("framesOf('state')[1].data.reason")
    gone = await start(lambda about: None)
    assert (await gone.js("await outcomes([client.connect()])"))[0]["code"] == "closed"


async def test_token_of_another_user_closes_the_client(start, server):
    """A token of another user is not used, because the pending requests belong to the first user."""
    users = iter([1, 2])
    alice = await start(lambda about: token_for(next(users)), join=ROOM)
    close_all(server)
    await alice.until("client.state === 'closed'")
    assert "another user" in await alice.js("frames.at(-1).data.reason")


async def test_a_user_has_the_same_id_in_any_encoding(start, server):
    """JSON may escape the characters of an id, or contain them as UTF-8. Both are tokens of the same user."""
    claims = {"sub": "CORP\\Ünï|😀", "rooms": ["*"], "exp": int(time.time()) + 60}
    escaped, plain = (sign_raw(json.dumps(claims, ensure_ascii=ascii).encode()) for ascii in (True, False))
    tokens = iter([escaped, plain, escaped])
    alice = await start(lambda about: next(tokens), join=ROOM)
    for times in (2, 3):
        close_all(server)
        await alice.until(f"framesOf('connected').length === {times}")
    assert await alice.js("client.user.user_id") == claims["sub"]
    assert await alice.js("client.state") == "open"
