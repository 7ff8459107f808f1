"""The findings of ``roomcast doctor`` about settings."""

from __future__ import annotations

from base64 import b64encode

import pytest
from settings_environment import SECRET

from roomcast.cli.checks.environment import check_settings
from roomcast.cli.checks.finding import WARN

ROOM_ACCESS_SECRET = f"whsec_{b64encode(b'a' * 32).decode()}"


@pytest.mark.parametrize(
    ("origins", "warning"),
    [
        ("*", "pages of every site may connect"),
        ("https://app.example.com,null", "every site can embed a sandboxed page"),
        ("https://*.example.com", None),
    ],
)
def test_origins_that_every_site_can_use_are_a_warning(origins: str, warning: str | None) -> None:
    """A sandboxed frame has the origin null, whatever site embeds it."""
    findings = check_settings({"JWT_SECRET": SECRET, "ALLOWED_ORIGINS": origins})
    found = [finding.sentence for finding in findings if finding.level == WARN and "ORIGINS" in finding.sentence]
    assert len(found) == (0 if warning is None else 1)
    assert warning is None or warning in found[0]


@pytest.mark.parametrize(
    ("access", "secret", "warning"),
    [
        ("https://app.example.com/may-join", "", "the URL in ROOM_ACCESS cannot verify"),
        ("https://app.example.com/may-join", ROOM_ACCESS_SECRET, None),
        ("claims", ROOM_ACCESS_SECRET, "has no effect, because ROOM_ACCESS is claims"),
        ("claims", "", None),
    ],
)
def test_unsigned_requests_to_the_access_url_are_a_warning(access: str, secret: str, warning: str | None) -> None:
    """A URL needs a secret, and a secret needs a URL."""
    findings = check_settings({"JWT_SECRET": SECRET, "ROOM_ACCESS": access, "ROOM_ACCESS_SECRET": secret})
    found = [finding.sentence for finding in findings if "ROOM_ACCESS_SECRET" in finding.sentence]
    assert len(found) == (0 if warning is None else 1)
    assert warning is None or warning in found[0]
