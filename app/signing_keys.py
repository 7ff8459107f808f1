"""The keys that tokens are signed with: which are accepted, and with which algorithms.

``settings`` checks the keys at start, ``auth`` verifies tokens with them. A key is accepted only with algorithms of its
own kind, because a public key that is used as an HMAC secret would let everyone sign tokens (RFC 8725, section 3.1). No
error sentence contains a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import InvalidKeyError
from jwt.algorithms import HMACAlgorithm

from .errors import SettingsError

#: The algorithms for a shared secret, with the least length of the secret in bytes (RFC 7518, section 3.2).
HMAC_ALGORITHMS: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}

#: The algorithms for an RSA key, and the least length of the key in bits (RFC 7518, sections 3.3 and 3.5).
_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_RSA_BITS: Final = 2048

_PEM_BLOCK: Final = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)

#: The only algorithm for each curve (RFC 7518, section 3.4; RFC 8812, section 3.2).
_CURVE_ALGORITHMS: Final[Mapping[str, str]] = {
    "secp256r1": "ES256",
    "secp384r1": "ES384",
    "secp521r1": "ES512",
    "secp256k1": "ES256K",
}


def read_public_key(value: str) -> str:
    """Return the PEM text of ``JWT_PUBLIC_KEY``, which is PEM text or the path of a file.

    ``\\n`` in the text stands for a line end, as in .env files. Raises ``SettingsError`` if there is no such file.
    """
    if "-----BEGIN" in value:
        return value.replace("\\n", "\n")
    try:
        return Path(value.strip()).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SettingsError(
            f"JWT_PUBLIC_KEY is neither PEM text (-----BEGIN PUBLIC KEY-----) nor the path of such a file ({reason})."
        ) from error


def split_secrets(value: str, algorithms: Sequence[str]) -> tuple[str, ...]:
    """Return the secrets in ``JWT_SECRET``: one on each line, or separated by commas.

    A comma separates only secrets that are long enough for all ``algorithms``, because a secret may contain commas. No
    shorter secret is accepted anyway.
    """
    if len(lines := [line for line in value.replace("\r\n", "\n").split("\n") if line.strip()]) > 1:
        return tuple(lines)
    parts = tuple(part.strip() for part in value.split(","))
    needed = max(HMAC_ALGORITHMS[algorithm] for algorithm in algorithms)
    return parts if len(parts) > 1 and min(map(_size, parts)) >= needed else (value,)


def split_public_keys(pem: str) -> tuple[str, ...]:
    """Return the keys in the PEM text ``pem``, each with its header and footer."""
    return tuple(_PEM_BLOCK.findall(pem)) or (pem,)


def accepted_algorithms(secret: str | None, public_key: str | None, algorithms: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``algorithms``, or by default the usual algorithm of the key.

    Raises ``SettingsError`` unless there is exactly one key, the algorithms fit it, and it is long enough.
    """
    if secret and public_key:
        raise SettingsError(
            "JWT_SECRET and JWT_PUBLIC_KEY are both set; give the one your tokens are signed for and unset the other."
        )
    if public_key:
        name, possible = "JWT_PUBLIC_KEY", _public_key_algorithms(public_key)
    elif secret:
        name, possible = "JWT_SECRET", tuple(HMAC_ALGORITHMS)
    else:
        raise SettingsError(
            "JWT_SECRET or JWT_PUBLIC_KEY must be set, to verify the tokens of your users; "
            "to try roomcast without one, run `roomcast dev`."
        )
    for algorithm in algorithms:
        if algorithm not in possible:
            raise SettingsError(f"JWT_ALGORITHMS has {algorithm!r}; with this {name} it can be {', '.join(possible)}.")
    accepted = algorithms or possible[:1]
    if secret:
        _check_secret(secret, accepted)
    return accepted


def _size(secret: str) -> int:
    """Return the length of a secret in bytes. Environment variables that are not UTF-8 contain surrogates."""
    return len(secret.encode("utf-8", "surrogateescape"))


def _check_secret(value: str, algorithms: tuple[str, ...]) -> None:
    """Raise ``SettingsError`` if a secret in ``value`` is too short for one of ``algorithms``, or is a public key."""
    hmac = HMACAlgorithm(HMACAlgorithm.SHA256)
    try:
        hmac.prepare_key(value)  # as a whole, because PEM text has several lines
        secrets = split_secrets(value, algorithms)
        for number, secret in enumerate(secrets, 1):
            name = f"JWT_SECRET, value {number} of {len(secrets)}," if len(secrets) > 1 else "JWT_SECRET"
            for algorithm in algorithms:
                if _size(secret) < HMAC_ALGORITHMS[algorithm]:
                    raise SettingsError(
                        f"{name} is {_size(secret)} bytes long; {algorithm} needs {HMAC_ALGORITHMS[algorithm]} or more "
                        "(RFC 7518, section 3.2), for example from `openssl rand -base64 48`."
                    )
            hmac.prepare_key(secret)
    except (InvalidKeyError, UnicodeError) as error:
        raise SettingsError(
            "JWT_SECRET is a key, a certificate or not text, and must be a secret; a public key belongs in "
            "JWT_PUBLIC_KEY."
        ) from error


def _public_key_algorithms(pem: str) -> tuple[str, ...]:
    """Return the algorithms that the keys in ``pem`` can verify, the usual one first; raise ``SettingsError``."""
    if "PRIVATE KEY" in pem:
        raise SettingsError(
            "JWT_PUBLIC_KEY is a private key; give its public half, and keep the private key off your servers."
        )
    possible = {_single_key_algorithms(key) for key in split_public_keys(pem)}
    if len(possible) > 1:
        raise SettingsError("JWT_PUBLIC_KEY has keys of different kinds; all of them must be of one kind, such as RSA.")
    return possible.pop()


def _single_key_algorithms(pem: str) -> tuple[str, ...]:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        if "BEGIN CERTIFICATE" in pem:
            raise SettingsError(
                "JWT_PUBLIC_KEY is a certificate; give the public key in it, see `openssl x509 -pubkey -noout`."
            ) from error
        raise SettingsError("JWT_PUBLIC_KEY is not a public key in PEM (-----BEGIN PUBLIC KEY-----).") from error
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_BITS:
            raise SettingsError(
                f"JWT_PUBLIC_KEY is an RSA key of {key.key_size} bits; it must have {_RSA_BITS} or more."
            )
        return _RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_ALGORITHMS:
        return (_CURVE_ALGORITHMS[key.curve.name],)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    raise SettingsError("JWT_PUBLIC_KEY is of a kind that signs no tokens; it must be RSA, EC, Ed25519 or Ed448.")
