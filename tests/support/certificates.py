"""A pytest plugin: a certificate, and the TLS context of a server that uses it."""

import ssl
from pathlib import Path

import pytest
from certificate_files import write_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Create a self-signed certificate for 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    write_certificate(path)
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    """Return a TLS context like that of --tls-cert and --tls-key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
