"""The findings of ``roomcast doctor`` about settings."""

from __future__ import annotations

import pytest
from settings_environment import SECRET

from roomcast.cli.checks.environment import check_settings
from roomcast.cli.checks.finding import WARN


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
