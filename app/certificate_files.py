"""Load certificates and keys for TLS from files in PEM. Errors name the setting, the file and the problem."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import NamedTuple

from .certificates import Validity, problem_of_authorities, validity_of_chain
from .errors import SettingsError


class CertificateFile(NamedTuple):
    """A file, and the ``setting`` that names it."""

    setting: str
    path: str

    def __str__(self) -> str:
        return f"{self.setting} {self.path if self.path.isprintable() else repr(self.path)}"

    def check_readable(self) -> None:
        """Raise ``SettingsError`` if the file cannot be read. The errors of OpenSSL do not name the file."""
        try:
            Path(self.path).open("rb").close()
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            reason = str(error) if number is None else os.strerror(number).lower()
            raise SettingsError(f"{self} cannot be read: {reason}.") from error


def load_certificate(
    context: ssl.SSLContext, certificate: CertificateFile, key: CertificateFile | None
) -> Validity | None:
    """Let ``context`` present ``certificate``, a chain, with ``key``, by default from the same file.

    Return its validity, or None if that is not known. Raises ``SettingsError`` if a file cannot be read or has another
    form, if the two do not belong together, and if the certificate is not valid now.
    """
    for file in (certificate, key):
        if file is not None:
            file.check_readable()
    try:
        # Without ``password`` OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate.path, key and key.path, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"{key or certificate} is the key of another certificate than {certificate}."
            ) from error
        if key is None:
            problem = f"{certificate} is not a certificate chain with its key, which may be in a file of its own"
        else:
            problem = f"{certificate} and {key} are not a certificate chain and its key"
        raise SettingsError(f"{problem}; both must be PEM, and the key without a passphrase.") from error
    validity = validity_of_chain(Path(certificate.path))
    if validity is not None and (invalid := validity.problem()):
        raise SettingsError(
            f"{certificate} {invalid}, so it is not accepted. Renew it, or correct this machine's clock."
        )
    return validity


def load_authorities(context: ssl.SSLContext, authorities: CertificateFile) -> None:
    """Let ``context`` trust ``authorities``. Raises ``SettingsError`` if none in the file is valid now."""
    authorities.check_readable()
    try:
        context.load_verify_locations(authorities.path)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise SettingsError(f"{authorities} holds no certificates in PEM; give the authorities to trust.") from error
    if problem := problem_of_authorities(context):
        raise SettingsError(
            f"{authorities} {problem}, so it trusts no server. Give a valid authority, or correct this machine's clock."
        )
