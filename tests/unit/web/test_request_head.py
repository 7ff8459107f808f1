"""Values read from a request's head: bearer tokens."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from roomcast.web.request_head import bearer_token


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Bearer", ""),
        ("Basic abc", None),
        ("Bearerabc", None),
    ],
)
def test_a_bearer_token_has_its_scheme(header: str | None, token: str | None):
    """The scheme is case-insensitive. A header without credentials has an empty token."""
    headers = {} if header is None else {"Authorization": header}
    assert bearer_token(make_mocked_request("GET", "/", headers)) == token
