"""A certificate authority for tests, and the certificates that it signs."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """A certificate authority. ``ca`` is the path of its certificate, and ``directory`` that of all its files.

    ``server`` is the path of a certificate for 127.0.0.1 and localhost with its key, and ``context`` the TLS context of
    a server that presents it. An authority that has ``expired`` signs certificates that have not.
    """

    def __init__(self, directory: Path, *, expired: bool = False) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
        root = self._sign(
            self._name, self._key, x509.BasicConstraints(ca=True, path_length=0), -_DAY if expired else _DAY
        )
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        self.server, key = self.issue("server")
        self.server.write_bytes(key.read_bytes() + self.server.read_bytes())
        self.context = self.server_context()

    def server_context(self, *, requires_client: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a server, which may require that clients have a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        if requires_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def issue(self, name: str, lifetime: timedelta = _DAY, begin: timedelta = -2 * _DAY) -> tuple[Path, Path]:
        """Sign a certificate for 127.0.0.1 and localhost; return its path and that of its key.

        It begins at ``begin`` and ends at ``lifetime`` from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._sign(subject, key, names, lifetime, begin)
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        lifetime: timedelta,
        begin: timedelta = -2 * _DAY,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        is_authority = isinstance(extension, x509.BasicConstraints)
        return (
            x509.CertificateBuilder(
                self._name, subject, key.public_key(), x509.random_serial_number(), now + begin, now + lifetime
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
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
