"""Certificates in files: what is loaded, and errors that name the setting, the file and the problem."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tls_authority import Authority

from roomcast.certificate_files import CertificateFile, load_authorities, load_certificate
from roomcast.errors import SettingsError

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of these tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


def load(certificate: Path | str, key: Path | str | None = None) -> None:
    """Load a client certificate."""
    named = None if key is None else CertificateFile("THE_KEY", str(key))
    load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), CertificateFile("THE_CERT", str(certificate)), named)


def refusal(certificate: Path | str, key: Path | str | None = None) -> str:
    """Return the error for files that cannot be used."""
    with pytest.raises(SettingsError) as caught:
        load(certificate, key)
    return str(caught.value)


def test_valid_certificates(authority: Authority):
    """The key may be in the same file, and a chain may follow the certificate."""
    certificate, key = authority.issue("valid")
    load(certificate, key)
    both = authority.directory / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes() + authority.ca.read_bytes())
    load(both)


def test_files_that_cannot_be_read(authority: Authority):
    """The error names the setting and the file."""
    certificate, _ = authority.issue("readable")
    assert refusal("/no/such.pem") == "THE_CERT /no/such.pem cannot be read: no such file or directory."
    assert refusal(certificate, "/no/such.key") == "THE_KEY /no/such.key cannot be read: no such file or directory."
    assert refusal(authority.directory).endswith("cannot be read: is a directory.")
    assert "\0" not in refusal("/a\0b")


def test_files_of_another_form(authority: Authority):
    """The error says what is expected. OpenSSL does not ask for a passphrase."""
    certificate, key = authority.issue("formed")
    other = authority.directory / "text.pem"
    other.write_text("nothing here")
    assert "is not a certificate chain with its key, which may be in a file of its own" in refusal(certificate)
    assert f"THE_CERT {other} and THE_KEY {key} are not a certificate chain and its key" in refusal(other, key)
    assert f"THE_CERT {certificate} and THE_KEY {other} are not" in refusal(certificate, other)
    locked = authority.directory / "locked.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    assert "the key without a passphrase" in refusal(certificate, locked)


def test_a_key_of_another_certificate(authority: Authority):
    """The error names both settings."""
    (certificate, _), (_, key) = authority.issue("one"), authority.issue("two")
    assert refusal(certificate, key) == f"THE_KEY {key} is the key of another certificate than THE_CERT {certificate}."


def test_certificates_that_are_not_valid_now(authority: Authority):
    """The error has the date."""
    expired, future = authority.issue("old", -DAY), authority.issue("new", 2 * DAY, DAY)
    assert f"THE_CERT {expired[0]} expired on " in refusal(*expired)
    assert f"THE_CERT {future[0]} is not valid before " in refusal(*future)


def test_authorities(authority: Authority, tmp_path: Path):
    """Files without certificates, and with expired ones only, are refused."""

    def trust(path: Path | str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, CertificateFile("THE_CA", str(path)))
        return context

    assert len(trust(authority.ca).get_ca_certs()) == 1
    old = Authority(tmp_path / "old", expired=True)
    both = tmp_path / "both.pem"
    both.write_bytes(old.ca.read_bytes() + authority.ca.read_bytes())
    assert len(trust(both).get_ca_certs()) == 2
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing here")
    for path, words in (
        ("/no/such.pem", "THE_CA /no/such.pem cannot be read: no such file"),
        (tmp_path, f"THE_CA {tmp_path} cannot be read: is a directory"),
        (empty, f"THE_CA {empty} holds no certificates in PEM"),
        (old.ca, f"THE_CA {old.ca} expired on "),
    ):
        with pytest.raises(SettingsError, match=words):
            trust(path)
