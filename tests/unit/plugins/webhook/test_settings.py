"""The settings of webhooks."""

from __future__ import annotations

import pytest
from webhook_receiver import SECRET

from roomcast.plugins.webhook.settings import WebhookSettings


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://localhost:8000/webhooks",
        "http://[::1]:80/",
        "https://b\u00fccher.example/\u00e4?q=\u00fc",
        "https://alice:pass-word@example.com/?key=hidden",
    ],
)
def test_urls(url: str) -> None:
    """URLs of HTTP are accepted."""
    assert WebhookSettings(url=url, secret=(SECRET,)).url == url


@pytest.mark.parametrize(
    "url",
    [
        "x",
        "/webhooks",
        "ftp://example.com/",
        "http://",
        "https://:443/",
        "https://example.com:99999/hidden",
        "https://example.com:0/hidden",
        "https://exa mple.com/hidden",
        "https://example.com/hid den",
        "http://[::1/hidden",
        "http://.example/hidden",
        "http://a..b/hidden",
        "https://" + "a" * 70 + ".example/hidden",
    ],
)
def test_texts_that_are_no_urls(url: str) -> None:
    """The server does not start, and the sentence does not contain the URL, which may have a password."""
    with pytest.raises(ValueError, match=r"WEBHOOK_URL must be a URL like https://example\.com/webhooks$"):
        WebhookSettings(url=url, secret=(SECRET,))


def test_the_secret_is_not_in_the_repr() -> None:
    """A plugin that logs its settings does not log the secret."""
    assert SECRET not in repr(WebhookSettings(url="https://example.com", secret=(SECRET,)))
