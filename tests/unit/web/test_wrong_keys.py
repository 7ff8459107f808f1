"""The limit of wrong keys: at all places that check a key together, and never for the right key."""

from __future__ import annotations

import logging

import pytest
from serving import KEY, WITH_KEY, GatewayClient, bearer

from roomcast.web.app_state import GATEWAY
from roomcast.web.wrong_keys import MAX_WRONG_KEYS, WrongKeys

ROOMS = "/api/v1/rooms"


async def test_two_hundred_wrong_keys(gateway_client: GatewayClient, caplog: pytest.LogCaptureFixture):
    """Five get 401, the others 429 with the seconds to wait and the end of the connection. The log has five lines."""
    client = await gateway_client()
    statuses = []
    with caplog.at_level(logging.INFO, logger="roomcast"):
        for number in range(200):
            response = await client.get(ROOMS, headers=bearer(f"guess-{number}"))
            statuses.append(response.status)
    assert statuses == [401] * MAX_WRONG_KEYS + [429] * (200 - MAX_WRONG_KEYS)
    assert (await response.json())["code"] == "too_many_wrong_keys"
    assert 0 < int(response.headers["Retry-After"]) <= 60
    assert response.headers["Connection"] == "close"
    lines = [record.getMessage() for record in caplog.records if "the key is wrong" in record.getMessage()]
    assert len(lines) == MAX_WRONG_KEYS


async def test_the_right_key_is_always_accepted(gateway_client: GatewayClient):
    """A client whose address has sent too many wrong keys uses the API, the health details and the login at once."""
    client = await gateway_client(console=True)
    await client.app[GATEWAY].broker.close()
    for _ in range(MAX_WRONG_KEYS * 2):
        await client.get(ROOMS, headers=bearer("wrong"))
    assert (await client.get(ROOMS, headers=WITH_KEY)).status == 503
    health = await (await client.get("/health/ready", headers=WITH_KEY)).json()
    assert "embedded broker" in health["parts"]["broker"]
    assert (await client.post("/console/login", data={"key": KEY}, allow_redirects=False)).status == 303


@pytest.mark.parametrize("place", ["api", "health", "login"])
async def test_all_places_share_the_limit(gateway_client: GatewayClient, place: str):
    """Wrong keys at one place count at the others."""
    client = await gateway_client(console=True)
    await client.app[GATEWAY].broker.close()
    for _ in range(MAX_WRONG_KEYS):
        if place == "login":
            await client.post("/console/login", data={"key": "wrong"})
        else:
            await client.get(ROOMS if place == "api" else "/health/ready", headers=bearer("wrong"))
    assert (await client.get(ROOMS, headers=bearer("wrong"))).status == 429
    assert (await client.post("/console/login", data={"key": "wrong"})).status == 429
    response = await client.get("/health/ready", headers=bearer("wrong"))
    assert (response.status, "embedded" in await response.text()) == (503, False)


async def test_requests_without_a_key_do_not_count(gateway_client: GatewayClient):
    """A missing key is not a guess."""
    client = await gateway_client()
    for _ in range(MAX_WRONG_KEYS * 2):
        assert (await client.get(ROOMS)).status == 401


async def test_the_addresses_of_one_ipv6_network_share_the_attempts(gateway_client: GatewayClient):
    """After five wrong keys from different addresses of a /64, all of it is limited, and other networks are not."""
    client = await gateway_client(console=True, trust_proxy="1")

    async def try_from(address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return (await client.post("/console/login", data={"key": "wrong"}, headers=headers)).status

    statuses = [await try_from(f"2001:db8:0:1::{number}") for number in range(7)]
    assert statuses == [403] * 5 + [429] * 2
    assert await try_from("2001:db8:0:2::1") == 403


def test_an_address_has_a_limited_number_of_attempts_in_a_window():
    """At the limit, the address has to wait until its oldest attempt leaves the window. Other addresses do not."""
    now = 100.0
    attempts = WrongKeys(3, 60, clock=lambda: now)
    for at in (100.0, 110.0, 120.0):
        now = at
        assert attempts.wait("a") == 0
        attempts.add("a")
    assert attempts.wait("a") == 40
    assert attempts.wait("b") == 0
    now = 159.9
    assert attempts.wait("a") > 0
    now = 160.0
    assert attempts.wait("a") == 0
    attempts.add("a")
    assert attempts.wait("a") == 10


def test_old_addresses_are_forgotten():
    """Addresses are dropped after their window, and the oldest ones when there are too many."""
    now = 0.0
    attempts = WrongKeys(1, 60, max_addresses=3, clock=lambda: now)
    for address in "abcd":
        attempts.add(address)
    assert [address for address in "abcd" if attempts.wait(address)] == ["b", "c", "d"]
    now = 60.0
    for address in "efg":
        attempts.add(address)
    assert len(attempts._attempts) == 3
