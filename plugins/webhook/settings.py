"""The settings of webhooks."""

from __future__ import annotations

import re
import warnings
from base64 import b64decode
from dataclasses import dataclass
from ipaddress import ip_address

from yarl import URL

from roomcast import setting

from .events import TYPES


@dataclass(frozen=True)
class WebhookSettings:
    """The variables ``WEBHOOK_URL`` and so on. Without ``url``, webhooks are off and cost nothing."""

    url: str | None = setting("URL that receives webhooks by POST; without it, there are none", default=None)
    secret: tuple[str, ...] = setting(
        "Secrets that sign the webhooks (whsec_…), separated by commas", default=(), secret=True
    )
    events: tuple[str, ...] = setting("Types of events that the URL receives, separated by commas", default=TYPES)
    timeout: float = setting("How long the URL may take to answer", default=10.0, unit="s", above=0, maximum=60)
    retry_time: float = setting(
        "How long an event is repeated that the URL does not accept; then it is a dead letter",
        default=86400.0,
        unit="s",
        above=0,
    )

    def __post_init__(self) -> None:
        """Raise ``ValueError`` with a sentence for the operator."""
        if unknown := [type for type in self.events if type not in TYPES]:
            raise ValueError(f"WEBHOOK_EVENTS has {unknown[0]!r}; the types are {', '.join(TYPES)}")
        if self.url is None:
            return
        check_url(self.url)
        if not self.secret:
            raise ValueError(
                "WEBHOOK_URL needs WEBHOOK_SECRET, with which the receiver recognizes your webhooks; generate one with "
                '`echo "whsec_$(openssl rand -base64 32)"`'
            )
        for secret in self.secret:
            check_secret(secret)
        url = URL(self.url)
        if url.scheme == "http" and not _is_private(url.host or ""):
            warnings.warn(
                f"WEBHOOK_URL begins with http://, so the events can be read on the way to {url.host}; use https:// "
                "outside of a private network.",
                stacklevel=3,
            )


def check_url(url: str) -> None:
    """Raise ``ValueError`` if ``url`` is not one of HTTP, with a sentence that does not contain it."""
    try:
        parsed = URL() if re.search(r"\s", url) else URL(url)
        (parsed.host or "").encode("idna")
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or not parsed.port:
        raise ValueError("WEBHOOK_URL must be a URL like https://example.com/webhooks")


def _is_private(host: str) -> bool:
    """Return True if ``host`` is in a private network by its address, or by a name that no public DNS has."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


def check_secret(secret: str) -> None:
    """Raise ``ValueError`` if ``secret`` is not a secret of Standard Webhooks."""
    try:
        size = len(b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        size = 0
    if not secret.startswith("whsec_") or not 24 <= size <= 64:
        raise ValueError(
            "WEBHOOK_SECRET must be whsec_ and 24 to 64 random bytes in Base64, for example from "
            '`echo "whsec_$(openssl rand -base64 32)"`; commas separate several'
        )
