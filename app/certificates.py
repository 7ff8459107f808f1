"""TLS certificates: refuse those that no client accepts, and warn before they expire.

OpenSSL loads certificates that have expired without an error. The clients are the first to refuse them.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509

#: A certificate is about to expire in the last third of its lifetime, but not earlier than this. Automatic renewal
#: happens before: 30 days before the end of 90 in the case of Let's Encrypt.
_WARNING_PERIOD: Final = timedelta(days=14)


class Validity(NamedTuple):
    """The time in which a certificate is valid."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, decoded: Mapping[str, Any]) -> Validity:
        """Return the validity of a certificate as the module ``ssl`` decodes it."""
        begin, end = (ssl.cert_time_to_seconds(decoded[name]) for name in ("notBefore", "notAfter"))
        return cls(datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC))

    def problem(self) -> str | None:
        """Return why the certificate is not valid now, as the end of a sentence about it, or None if it is."""
        now = datetime.now(UTC)
        if now >= self.end:
            return f"expired on {_shown(self.end)}"
        return f"is not valid before {_shown(self.begin)}" if now < self.begin else None

    def warning(self) -> str | None:
        """Return that the certificate has expired or is about to, as the end of a sentence about it, or None."""
        period = min(_WARNING_PERIOD, (self.end - self.begin) / 3)
        if self.problem() is None and datetime.now(UTC) >= self.end - period:
            return f"expires on {_shown(self.end)}"
        return self.problem()


class ServerContext(ssl.SSLContext):
    """The TLS context of a server. ``validity`` is that of its certificate, or None if it is not known."""

    validity: Validity | None = None


def validity_of_chain(path: Path) -> Validity | None:
    """Return the validity of the first certificate in a PEM file that OpenSSL has loaded.

    Return None if it cannot be decoded: OpenSSL accepts some certificates that ``cryptography`` does not. Raises
    ``OSError``.
    """
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except ValueError:
        return None
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def problem_of_authorities(context: ssl.SSLContext) -> str | None:
    """Return why no authority in ``context`` is valid now, as the end of a sentence about one of them.

    Return None if any is, because files of authorities often contain old ones.
    """
    problems = [Validity.of(decoded).problem() for decoded in context.get_ca_certs()]
    return problems[-1] if problems and None not in problems else None


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
