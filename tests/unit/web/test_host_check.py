"""In ``roomcast dev`` no page of another site gets in under a name of its own that points at this machine."""

from __future__ import annotations

import aiohttp
import pytest
from serving import PATH, Serve, answer, token_for, url

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
def test_own_names_are_localhost_and_addresses(host: str, own: bool):
    """A name that somebody else can own is never one of them, whatever it begins or ends with."""
    assert is_own_host(host, "127.0.0.1") is own


def test_the_host_that_was_listened_on_is_own():
    """Whoever names it with --host means it."""
    assert is_own_host("Devbox.example:8000", "devbox.example")
    assert not is_own_host("other.example:8000", "devbox.example")


@pytest.mark.parametrize(
    "path", ["/", "/console", "/health/live", "/nowhere", "/api/v1/rooms", "/api/v1/nowhere", PATH]
)
async def test_dev_refuses_foreign_hosts(serve: Serve, path: str):
    """Every path does, with a sentence on what to do; under /api in JSON."""
    server = await serve(dev=True)
    async with answer(server, "GET", path, headers={"Host": f"evil.example:{server.port}"}) as response:
        assert response.status == 421
        sentence = (await response.json())["error"] if path.startswith("/api/") else await response.text()
        assert "name this host with --host" in sentence


async def test_dev_answers_to_its_own_host(serve: Serve):
    """By name, by address, and to a program that gives none."""
    server = await serve(dev=True)
    for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}"):
        async with answer(server, "GET", "/health/live", headers={"Host": host}) as response:
            assert response.status == 200


async def test_no_foreign_page_gets_a_socket_or_a_token_in_dev(serve: Serve):
    """What a page of evil.example would ask, were its name to point here: its Host and its Origin agree."""
    server = await serve(dev=True)
    host = f"evil.example:{server.port}"
    ours = {"Host": host, "Origin": f"http://{host}", "X-Roomcast-Console": "1"}
    made_up = {"username": "eve", "user_id": 1, "rooms": ["*"]}
    async with answer(server, "POST", "/console/token", made_up, key=None, headers=ours) as response:
        assert response.status == 421
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="421"):
            await http.ws_connect(url(server, f"{PATH}?token={token_for()}"), headers=ours)


async def test_serve_asks_for_no_host(serve: Serve):
    """In production the name is the proxy's business, and the console and the API have their keys."""
    server = await serve()
    async with answer(server, "GET", "/health/live", headers={"Host": "chat.example.com"}) as response:
        assert response.status == 200
