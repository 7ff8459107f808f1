"""``roomcast dev`` refuses requests for host names that an attacker could point at this machine."""

from __future__ import annotations

import aiohttp
import pytest
from serving import PATH, WITH_KEY, GatewayClient, token_for

from roomcast.web.host_check import is_own_host

OWN = ["localhost", "localhost:5173", "LOCALHOST.:80", "app.localhost:1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7"]
FOREIGN = [
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "",
    ":80",
    "a b",
    "[::1",
]


@pytest.mark.parametrize(("host", "own"), [(host, True) for host in OWN] + [(host, False) for host in FOREIGN])
def test_localhost_and_addresses_are_own_hosts(host: str, own: bool):
    """Names that an attacker can own are refused, even if they begin or end like localhost or an address."""
    assert is_own_host(host, "127.0.0.1") is own


def test_the_host_of_the_option_is_an_own_host():
    """The host of --host is accepted, because the operator chose it."""
    assert is_own_host("Devbox.example:8000", "devbox.example")
    assert not is_own_host("other.example:8000", "devbox.example")


@pytest.mark.parametrize(
    "path", ["/", "/console", "/health/live", "/nowhere", "/api/v1/rooms", "/api/v1/nowhere", PATH]
)
async def test_dev_refuses_foreign_hosts(gateway_client: GatewayClient, path: str):
    """Every path gets a sentence that explains what to do; under /api it is in JSON."""
    client = await gateway_client(dev=True)
    response = await client.get(path, headers=WITH_KEY | {"Host": f"evil.example:{client.port}"})
    assert response.status == 421
    sentence = (await response.json())["error"] if path.startswith("/api/") else await response.text()
    assert "name this host with --host" in sentence


async def test_dev_serves_its_own_hosts(gateway_client: GatewayClient):
    """Requests by name and by address are answered."""
    client = await gateway_client(dev=True)
    for host in (f"localhost:{client.port}", f"127.0.0.1:{client.port}"):
        response = await client.get("/health/live", headers={"Host": host})
        assert response.status == 200


async def test_dev_gives_foreign_pages_no_socket_and_no_token(gateway_client: GatewayClient):
    """A page under a host name that points at this machine is refused, although its Host and Origin agree."""
    client = await gateway_client(dev=True)
    host = f"evil.example:{client.port}"
    headers = {"Host": host, "Origin": f"http://{host}", "X-Roomcast-Console": "1"}
    user = {"username": "eve", "user_id": 1, "rooms": ["*"]}
    response = await client.post("/console/token", json=user, headers=headers)
    assert response.status == 421
    with pytest.raises(aiohttp.WSServerHandshakeError, match="421"):
        await client.ws_connect(f"{PATH}?token={token_for()}", headers=headers)


async def test_serve_accepts_any_host(gateway_client: GatewayClient):
    """In production the proxy chooses the host, and the console and the API require their key."""
    client = await gateway_client()
    response = await client.get("/health/live", headers={"Host": "chat.example.com"})
    assert response.status == 200
