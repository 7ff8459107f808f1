"""Values read from a request's head: bearer tokens and addresses."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from roomcast.web.request_head import bearer_token, remote_address


@pytest.mark.parametrize(
    ("lines", "trusted", "remote"),
    [
        ([], True, "unix"),
        (["10.0.0.1"], False, "unix"),
        (["10.0.0.1"], True, "10.0.0.1"),
        (["made up, 10.0.0.1"], True, "10.0.0.1"),
        (["made up", "10.0.0.1"], True, "10.0.0.1"),
        (["made up, too", "made up, 10.0.0.1"], True, "10.0.0.1"),
        (["made up", ""], True, "unix"),
    ],
)
def test_the_remote_address_is_the_trusted_proxys_entry(lines: list[str], trusted: bool, remote: str):
    """The proxy's entry is the last one, in the client's header or in a second one. The client may send the others."""
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    request = make_mocked_request("GET", "/", headers)
    assert remote_address(request.clone(remote=""), trust_proxy=trusted) == remote


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
