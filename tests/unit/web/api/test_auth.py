"""Access to the HTTP API: which credentials are accepted, and that none of them is logged."""

from __future__ import annotations

import logging

import pytest
from serving import KEY, SECRET, WITH_KEY, GatewayClient, bearer, task_created, token_for

from roomcast import Plugin
from roomcast.web import console_session

EVENTS = "/api/v1/events"
ROOMS = "/api/v1/rooms"


async def test_a_users_token_is_not_an_api_key(gateway_client: GatewayClient):
    """A token that admits a WebSocket does not allow its user to publish."""
    client = await gateway_client()
    response = await client.post(EVENTS, json=task_created(), headers=bearer(token_for()))
    assert response.status == 401


async def test_the_scheme_is_case_insensitive(gateway_client: GatewayClient):
    """The scheme of the Authorization header may have any case (RFC 9110 section 11.1)."""
    client = await gateway_client()
    response = await client.get(ROOMS, headers={"Authorization": f"bearer {KEY}"})
    assert response.status == 200


async def test_several_keys_are_accepted(gateway_client: GatewayClient):
    """During a rotation, the new and the old key are accepted, each by itself."""
    client = await gateway_client(api_key="new-key,old-key")
    for key, status in (("new-key", 200), ("old-key", 200), ("new-key,old-key", 401), ("", 401)):
        assert (await client.get(ROOMS, headers=bearer(key))).status == status


async def test_no_key_and_no_token_is_logged(
    gateway_client: GatewayClient, caplog: pytest.LogCaptureFixture, broken_plugin: Plugin
):
    """A refusal is logged with the client's address. Neither the wrong key nor the right one is logged."""
    for logger in ("roomcast", "aiohttp"):
        caplog.set_level(logging.DEBUG, logger=logger)
    client = await gateway_client(plugins=[broken_plugin])
    await client.get(ROOMS, headers=bearer("not-the-key"))
    await client.get(f"/api/v1/nowhere?token={token_for()}", headers=WITH_KEY)
    event = {"type": "broken.event", "room": "task:1", "data": {"x": ""}}
    assert (await client.post(EVENTS, json=event, headers=WITH_KEY)).status == 500
    assert "from 127.0.0.1: the key is wrong" in caplog.text
    for secret in ("not-the-key", KEY, SECRET, token_for()[:20]):
        assert secret not in caplog.text


async def test_the_consoles_page_may_use_the_api_after_login(gateway_client: GatewayClient):
    """The cookie together with the console's header is accepted. The cookie alone, which any page can send, is not."""
    client = await gateway_client(console=True)
    await client.post("/console/login", data={"key": KEY})
    assert client.session.cookie_jar.filter_cookies(client.make_url("/"))
    assert (await client.get(ROOMS, headers={console_session.HEADER: "1"})).status == 200
    assert (await client.get(ROOMS)).status == 401
