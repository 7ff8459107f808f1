"""The root, and the responses for unknown paths and methods."""

from __future__ import annotations

import pytest
from serving import GatewayClient, url


@pytest.mark.parametrize("options", [{"dev": True}, {"console": True}])
async def test_the_root_redirects_to_the_console(gateway_client: GatewayClient, options: dict[str, bool]):
    """A server with a console redirects ``/`` to it."""
    client = await gateway_client(**options)
    response = await client.get("/", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, "./console")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_without_a_console_introduces_the_server(gateway_client: GatewayClient, method: str):
    """The text lists the endpoints, and how to turn the console on."""
    client = await gateway_client()
    response = await client.request(method, "/")
    assert (response.status, response.content_type) == (200, "text/plain")
    text = await response.text()
    if method == "GET":
        for word in ("This is roomcast", "/api/v1/ws/connect", "/api/v1/events", "roomcast dev", "CONSOLE=1"):
            assert word in text


@pytest.mark.parametrize("path", ["/index.html", "/ws", "/health", "/console", "/plugins/none", "//x", "/%3Cb%3E"])
async def test_an_unknown_path_is_404(gateway_client: GatewayClient, path: str):
    """The response is plain text and contains the path of the WebSocket endpoint."""
    client = await gateway_client()
    response = await client.session.get(url(client, path))  # the test client refuses paths that begin with two slashes
    assert (response.status, response.content_type) == (404, "text/plain")
    text = await response.text()
    assert text.startswith("There is no /") and "/api/v1/ws/connect" in text
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("method", "path", "allowed"), [("POST", "/", "GET, HEAD"), ("PUT", "/metrics", "GET, HEAD")])
async def test_a_wrong_method_is_405(gateway_client: GatewayClient, method: str, path: str, allowed: str):
    """The response contains the allowed methods."""
    client = await gateway_client()
    response = await client.request(method, path)
    assert (response.status, response.headers["Allow"]) == (405, allowed)
    assert await response.text() == f"{path} takes {allowed}, not {method}.\n"
