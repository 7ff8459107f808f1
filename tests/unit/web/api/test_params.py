"""Bodies of requests: broken JSON, too many bytes, and bodies that do not arrive."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from serving import KEY, WITH_KEY, GatewayClient, Serve, task_created
from wire import Peer

EVENTS = "/api/v1/events"


async def post(client: TestClient, body: Any, **headers: str) -> tuple[int, Any]:
    """Send ``body`` unchanged; return the status and the body of the response."""
    response = await client.post(EVENTS, data=body, headers=WITH_KEY | headers)
    return response.status, await response.json()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "truncated"),
        (b'{"type": "task.created"', "truncated"),
        (b'{"type":\n  NaN}', "line 2, column 3"),
        (b"{} {}", "line 1, column 5"),
        (b'{"room": ' + b"1" * 5000 + b"}", "out of range"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"type": "\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        (b"type=task.created&room=project%3A1", "invalid character"),
    ],
    ids=["empty", "cut", "NaN", "two", "5000 digits", "deep", "bytes", "BOM", "form"],
)
async def test_the_error_for_broken_json_has_the_position(gateway_client: GatewayClient, body: bytes, expected: str):
    """The response is 400, and the next request succeeds."""
    client = await gateway_client()
    status, refusal = await post(client, body)
    assert (status, refusal["code"]) == (400, "bad_json")
    assert expected in refusal["error"]
    assert (await post(client, json.dumps(task_created())))[0] == 200


async def test_a_body_has_at_most_a_mebibyte(gateway_client: GatewayClient):
    """A larger body gets 413 in JSON, with or without a Content-Length."""
    client = await gateway_client()
    exact = json.dumps([task_created()]).encode().ljust(1024 * 1024)
    assert (await post(client, exact))[0] == 200

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(exact), 65536):
            yield exact[start : start + 65536]
        yield b" "

    for data in (io.BytesIO(exact + b" "), chunks()):
        status, refusal = await post(client, data)
        assert (status, refusal["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in refusal["error"]


async def test_a_body_that_stops_is_408(serve: Serve):
    """After HANDSHAKE_TIMEOUT the server answers and closes the connection."""
    server = await serve(handshake_timeout=0.2)
    peer = await Peer.connect(("127.0.0.1", server.port))
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
    await peer.send(head.encode() + b'{"type":')
    answered = (await peer.head()).decode()
    assert answered.startswith("HTTP/1.1 408 ")
    assert "application/json" in answered
    assert "connection: close" in answered.lower()
    body = await peer.read(int(re.search("(?i)content-length: ([0-9]+)", answered)[1]))
    assert json.loads(body)["code"] == "body_too_slow"
    assert await peer.closes_cleanly()
    peer.close()
