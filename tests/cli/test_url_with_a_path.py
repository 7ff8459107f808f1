"""The commands with the URL of a server that a proxy serves below a path, with the nginx of docs/operations.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nginx import Nginx
from outbox import Relay
from redis_servers import RedisServer
from shell import API_KEY, SECRET, TASK, Process, Running, roomcast

from roomcast.web.upgrade.handshake import PATH

pytest_plugins = ["certificates"]


@pytest.fixture(scope="module")
def variables(server: Running, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Serve the server only below ``/rt/``; return the environment of a command."""
    with Nginx(
        [int(server.url.rpartition(":")[2])] * 3, certificate, tmp_path_factory.mktemp("nginx"), "/rt/"
    ) as nginx:
        yield {
            "ROOMCAST_URL": f"https://127.0.0.1:{nginx.port}/rt",
            "SSL_CERT_FILE": str(certificate),
            "API_KEY": API_KEY,
            "JWT_SECRET": SECRET,
        }


def test_calls_of_the_http_api(variables: dict[str, str]) -> None:
    """Events are published and read, and rooms with percent-encoded names are found."""
    published = roomcast("publish", "task.created", "project:below", TASK, **variables)
    assert published.returncode == 0, published.stderr
    listed = roomcast("history", "project:below", "--json", **variables)
    assert json.loads(listed.stdout)["id"] == published.stdout.strip()
    offline = roomcast("online", "a/../b", "--json", **variables)
    assert [one["user_id"] for one in json.loads(offline.stdout)["users"]] == ["a/../b"]


@pytest.mark.parametrize("end", ["", "/", PATH])
def test_the_websocket(variables: dict[str, str], end: str) -> None:
    """``listen`` connects below the path, with or without a slash at its end, or with the whole path."""
    arguments = ("listen", "project:ws", "--count", "1", "--json")
    with Process(*arguments, **variables | {"ROOMCAST_URL": variables["ROOMCAST_URL"] + end}) as listener:
        listener.wait_for(r"^Listening in", listener.err)
        assert roomcast("publish", "task.created", "project:ws", TASK, **variables).returncode == 0
        assert listener.ended() == 0
    assert json.loads(listener.out[0])["room"] == "project:ws"


def test_doctor(variables: dict[str, str]) -> None:
    """It checks the health and the WebSocket of the server below the path."""
    done = roomcast("doctor", "--url", variables["ROOMCAST_URL"], **variables)
    assert f"{variables['ROOMCAST_URL'].removesuffix('/')}/health/ready reports that the server is ready" in done.stdout
    assert "opens and sends `connected`" in done.stdout


def test_bench(variables: dict[str, str]) -> None:
    """It connects below the path."""
    arguments = ("--connections", "2", "--rooms", "1", "--rate", "5", "--duration", "1")
    done = roomcast("bench", *arguments, **variables)
    assert done.returncode == 0, done.stderr


async def test_the_relay(variables: dict[str, str], redis_server: RedisServer, redis_prefix: str) -> None:
    """It publishes to the server below the path."""
    url = variables["ROOMCAST_URL"]
    with Relay(url, "--redis-stream", redis_prefix, **variables | {"REDIS_URL": redis_server.url}) as relay:
        await redis_server("XADD", redis_prefix, "*", "type", "task.deleted", "room", "task:1", "data", '{"task_id":1}')
        relay.works()
        await relay.has("published_total", 1)
        assert relay.stop() == 0
