"""TLS to Redis, Sentinel and a Cluster: the files it uses, the context made of them, and errors in plain words."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from ...certificate_files import CertificateFile, load_authorities, load_certificate

#: Parts of OpenSSL's reasons, and what they mean for the operator.
_REASONS: Final = {
    "CERTIFICATE_REQUIRED": "it requires a client certificate; set REDIS_CERT and REDIS_KEY",
    "UNKNOWN_CA": "it does not trust the authority of the certificate in REDIS_CERT",
    "CERTIFICATE_EXPIRED": "the certificate in REDIS_CERT has expired",
    "BAD_CERTIFICATE": "it does not accept the certificate in REDIS_CERT",
    "WRONG_VERSION_NUMBER": "it does not use TLS at this port, but REDIS_URL asks for it (rediss://)",
}
#: OpenSSL's codes for a certificate whose authority is not known: self-signed, or without its issuer.
_UNKNOWN_ISSUER: Final = (18, 19, 20, 21)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The paths of REDIS_CA, REDIS_CERT and REDIS_KEY, or None; ``verify`` is REDIS_TLS_VERIFY.

    Without ``ca`` the authorities of the system are trusted, without ``key`` it is in the file ``certificate``.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify: bool = True


def create_context(files: TlsFiles) -> ssl.SSLContext:
    """Read ``files`` and return the context for all connections. Call it again to read files that have changed.

    Raises ``SettingsError`` with the name of the setting. Reading may block, so it may be called in a thread.
    """
    if not files.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif files.ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, CertificateFile("REDIS_CA, or ssl_ca_certs in REDIS_URL,", files.ca))
    if files.certificate is not None:
        key = None if files.key is None else CertificateFile("REDIS_KEY", files.key)
        load_certificate(context, CertificateFile("REDIS_CERT", files.certificate), key)
    return context


def explain(error: ssl.SSLError) -> str:
    """Return the reason for which TLS failed. It completes the sentence "Redis at … cannot be reached: "."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = ""
        if error.verify_code in _UNKNOWN_ISSUER:
            hint = "; give its authority in REDIS_CA"
        return f"TLS failed: {error.verify_message or error.reason}{hint}"
    reason = error.reason or str(error)
    return f"TLS failed: {next((words for part, words in _REASONS.items() if part in reason), reason)}"
