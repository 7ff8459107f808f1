"""The TLS context for Redis, and errors of TLS in plain words."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from tls_authority import Authority

from roomcast.broker.redis.tls import TlsFiles, create_context, explain
from roomcast.errors import SettingsError


def test_certificates_are_verified(tmp_path: Path):
    """The server's name and certificate are checked, by the given authority alone if there is one."""
    authority = Authority(tmp_path)
    for ca, count in ((None, None), (str(authority.ca), 1)):
        context = create_context(TlsFiles(ca))
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert count is None or len(context.get_ca_certs()) == count


def test_certificates_are_not_verified(tmp_path: Path):
    """Only with REDIS_TLS_VERIFY=false every certificate is accepted."""
    certificate, key = Authority(tmp_path).issue("client")
    context = create_context(TlsFiles(None, str(certificate), str(key), verify=False))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (TlsFiles("/no/ca.pem"), "REDIS_CA, or ssl_ca_certs in REDIS_URL, /no/ca.pem cannot be read"),
        (TlsFiles(None, "/no/c.pem"), "REDIS_CERT /no/c.pem cannot be read"),
        (TlsFiles(None, "{certificate}", "/no/k.pem"), "REDIS_KEY /no/k.pem cannot be read"),
        (TlsFiles(None, "{certificate}", "{ca}"), "REDIS_CERT .* and REDIS_KEY .* are not a certificate chain"),
        (TlsFiles(None, "{expired}", "{expired_key}"), "REDIS_CERT .* expired on"),
        (TlsFiles(None, "{certificate}", "{expired_key}"), "REDIS_KEY .* is the key of another certificate"),
    ],
)
def test_files_that_cannot_be_used(files: TlsFiles, words: str, tmp_path: Path):
    """The error names the setting."""
    authority = Authority(tmp_path)
    certificate, _ = authority.issue("client")
    expired, expired_key = authority.issue("expired", -timedelta(days=1))
    names = {"ca": authority.ca, "certificate": certificate, "expired": expired, "expired_key": expired_key}
    paths = [path and path.format_map(names) for path in (files.ca, files.certificate, files.key)]
    with pytest.raises(SettingsError, match=words):
        create_context(TlsFiles(*paths))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it requires a client certificate; set REDIS_CERT and REDIS_KEY"),
        ("TLSV1_ALERT_UNKNOWN_CA", "it does not trust the authority of the certificate in REDIS_CERT"),
        ("NO_CIPHERS_AVAILABLE", "NO_CIPHERS_AVAILABLE"),
    ],
)
def test_reasons_of_openssl(reason: str, words: str):
    """Reasons that concern a setting name it; others are shown as they are."""
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1)")
    error.reason = reason
    assert explain(error) == f"TLS failed: {words}"
