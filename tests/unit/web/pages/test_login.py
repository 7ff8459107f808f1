"""The form of the login, and the limit of login attempts, with a clock that the test sets."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from serving import KEY, GatewayClient

from roomcast.web.pages.login import MAX_FORM, LoginAttempts


def multipart() -> aiohttp.FormData:
    """Return a form with the right key and a file."""
    form = aiohttp.FormData({"key": KEY})
    form.add_field("file", b"x", filename="x")
    return form


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"key": KEY}, 303),
        ({"key": KEY, "more": "x" * MAX_FORM}, 413),
        (multipart(), 415),
        (b"key=" + KEY.encode(), 415),
    ],
    ids=["a key", "too large", "with a file", "another type"],
)
async def test_the_form_is_small_and_has_no_files(gateway_client: GatewayClient, form: Any, status: int):
    """Only a small form of the default type is read."""
    client = await gateway_client(console=True)
    response = await client.post("/console/login", data=form, allow_redirects=False)
    assert response.status == status


async def test_the_addresses_of_one_ipv6_network_share_the_attempts(gateway_client: GatewayClient):
    """After five wrong keys from different addresses of a /64, all of it has to wait, and other networks do not."""
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
    attempts = LoginAttempts(3, 60, clock=lambda: now)
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
    attempts = LoginAttempts(1, 60, max_addresses=3, clock=lambda: now)
    for address in "abcd":
        attempts.add(address)
    assert [address for address in "abcd" if attempts.wait(address)] == ["b", "c", "d"]
    now = 60.0
    for address in "efg":
        attempts.add(address)
    assert len(attempts._attempts) == 3
