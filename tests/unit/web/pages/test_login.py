"""The form of the login."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from serving import KEY, GatewayClient

from roomcast.web.pages.login import MAX_FORM


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
