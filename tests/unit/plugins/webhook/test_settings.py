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


@pytest.mark.parametrize("host", ["example.com", "203.113.1.9", "[2a00:1450::1]"])
def test_unencrypted_urls_of_other_networks(host: str) -> None:
    """They work, and are a warning, which has no other part of the URL."""
    url = f"http://alice:pass-word@{host}/hidden"
    with pytest.warns(UserWarning, match=r"^WEBHOOK_URL begins with http://") as found:
        assert WebhookSettings(url=url, secret=(SECRET,)).url == url
    (warning,) = found
    assert "pass-word" not in str(warning.message) and "hidden" not in str(warning.message)


@pytest.mark.parametrize("host", ["backend", "backend.default.svc.cluster.local", "10.1.2.3", "[fd00::1]", "127.0.0.1"])
def test_unencrypted_urls_of_private_networks(host: str) -> None:
    """They are no warning, which these tests would turn into an error."""
    assert WebhookSettings(url=f"http://{host}:9000/", secret=(SECRET,))


def test_the_secret_is_not_in_the_repr() -> None:
    """A plugin that logs its settings does not log the secret."""
    assert SECRET not in repr(WebhookSettings(url="https://example.com", secret=(SECRET,)))
