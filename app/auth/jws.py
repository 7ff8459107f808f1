"""Verify the signatures of tokens, which are JSON Web Signatures (RFC 7515), with PyJWT.

All tokens of an issuer have the same header, byte for byte. PyJWT checks the first token with a header completely: the
form of the header, its algorithm, and the extensions that it calls critical. For later tokens with this header, only
the payload and the signature are left to check. The algorithm of PyJWT verifies them, too.

With HS256 this takes 2 us for a token, and PyJWT's check 12 us.
"""

from __future__ import annotations

import binascii
import contextlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Any, Final

import jwt
from jwt.algorithms import HMACAlgorithm, get_default_algorithms

from ..signing_keys import HMAC_ALGORITHMS

#: How many headers are remembered. An issuer has one for each of its keys.
MAX_HEADERS: Final = 16

_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class _Hmac(HMACAlgorithm):
    """HMAC with secrets that ``signing_keys`` has checked. PyJWT would search them for a public key at every token."""

    def __init__(self, hash_alg: Any) -> None:
        super().__init__(hash_alg)
        #: The states of the algorithm after it has read each secret. Reading it takes 2 us.
        self._states: Final[dict[bytes, hmac.HMAC]] = {}

    def prepare_key(self, key: str | bytes) -> bytes:
        """Return the secret as bytes."""
        return key if isinstance(key, bytes) else key.encode()

    def sign(self, msg: bytes, key: bytes) -> bytes:
        """Return the signature of ``msg``."""
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = hmac.new(key, digestmod=self.hash_alg)
        code = state.copy()
        code.update(msg)
        return code.digest()


class SignatureVerifier:
    """Verifies tokens that one of ``keys`` has signed with one of ``algorithms``, which are the names in RFC 7518."""

    def __init__(self, keys: Iterable[str], algorithms: Sequence[str]) -> None:
        self.algorithms: Final = algorithms
        self._jws: Final = jwt.PyJWS(algorithms=())
        for name in algorithms:
            self._jws.register_algorithm(name, _algorithm(name))
        prepare = self._jws.get_algorithm_by_name(algorithms[0]).prepare_key
        self._keys: Final = [prepare(key) for key in keys]
        #: The headers of valid tokens, as they are encoded in the token, each with its algorithm.
        self._known_headers: Final[dict[bytes, Any]] = {}

    def payload(self, token: str) -> bytes:
        """Return the payload of ``token``, which must be ASCII; raise a ``jwt.PyJWTError`` if it is not valid."""
        signed, _, encoded_signature = token.encode().rpartition(b".")
        header, separator, encoded_payload = signed.partition(b".")
        algorithm = self._known_headers.get(header)
        if algorithm is None or not separator:
            return self._check_completely(token, header)
        payload, signature = _decode(encoded_payload), _decode(encoded_signature)
        if payload is None or signature is None:
            return self._check_completely(token, header)  # PyJWT decides, and finds the reason
        for key in self._keys:
            if algorithm.verify(signed, algorithm.prepare_key(key), signature):
                return payload
        raise jwt.InvalidSignatureError

    def _check_completely(self, token: str, header: bytes) -> bytes:
        """Let PyJWT check ``token``. If it is valid, remember its encoded ``header``."""
        decoded = self._decode_with_any_key(token)
        if len(self._known_headers) >= MAX_HEADERS:
            self._known_headers.clear()
        self._known_headers[header] = self._jws.get_algorithm_by_name(decoded["header"]["alg"])
        payload: bytes = decoded["payload"]
        return payload

    def _decode_with_any_key(self, token: str) -> dict[str, Any]:
        first, *others = self._keys
        try:
            return self._jws.decode_complete(token, first, self.algorithms)
        except jwt.InvalidSignatureError:
            for key in others:
                with contextlib.suppress(jwt.InvalidSignatureError):
                    return self._jws.decode_complete(token, key, self.algorithms)
            raise


def _algorithm(name: str) -> jwt.algorithms.Algorithm:
    default = get_default_algorithms()[name]
    if name in HMAC_ALGORITHMS and isinstance(default, HMACAlgorithm):
        return _Hmac(default.hash_alg)
    return default


def _decode(segment: bytes) -> bytes | None:
    """Decode base64url without padding (RFC 7515 section 2); return None if ``segment`` has another form.

    Python's decoder skips characters that are not base64, so the result is encoded again and compared.
    """
    try:
        decoded = binascii.a2b_base64(segment.translate(_TO_STANDARD) + b"==")
    except binascii.Error:
        return None
    encoded = binascii.b2a_base64(decoded, newline=False).translate(_TO_URL_SAFE).rstrip(b"=")
    return decoded if encoded == segment else None
