"""Tests of ``signing_keys``: which keys and algorithms are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificate_files import write_certificate
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from settings_environment import SECRET, refusal

from roomcast.settings import Settings


def public(key: PrivateKeyTypes) -> str:
    """Return the public half of ``key`` as PEM text."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    """Return a private RSA key."""
    return rsa.generate_private_key(65537, 2048)


def test_a_key_is_required() -> None:
    """Without a key, the sentence names the settings and the command to try roomcast without one."""
    assert "JWT_SECRET or JWT_PUBLIC_KEY must be set" in refusal()
    assert "`roomcast dev`" in refusal()


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_at_least_as_long_as_its_hash(algorithm: str, size: int) -> None:
    """A secret that is one byte too short for its algorithm is refused and not shown (RFC 7518, section 3.2)."""
    assert Settings(jwt_secret="k" * size, jwt_algorithms=(algorithm,)).jwt_algorithms == (algorithm,)
    sentence = refusal(JWT_SECRET="k" * (size - 1), JWT_ALGORITHMS=algorithm)
    assert f"{size - 1} bytes" in sentence
    assert f"{algorithm} needs {size}" in sentence
    assert "kkk" not in sentence


def test_the_length_of_a_secret_is_in_bytes() -> None:
    """Sixteen letters of two bytes each are 32 bytes."""
    assert Settings(jwt_secret="é" * 16).jwt_secret == "é" * 16


NEW, OLD = "n" * 40, "o" * 32


@pytest.mark.parametrize("value", [f"{NEW},{OLD}", f"{NEW}, {OLD}", f"{NEW}\n{OLD}", f"\n{NEW}\r\n\r\n{OLD}\n"])
def test_several_secrets_are_separated_by_commas_or_line_ends(value: str) -> None:
    """Empty lines, and white space around a comma, are left out."""
    assert Settings(jwt_secret=value).jwt_keys == (NEW, OLD)


@pytest.mark.parametrize(
    "value", [SECRET, f"{NEW},{'s' * 31}", f"{NEW},", f"{NEW}\n", f" {NEW}", f"{NEW} {OLD}", f"{NEW},{OLD},x"]
)
def test_other_values_are_one_secret(value: str) -> None:
    """A comma is part of a secret if a secret before or after it would be too short."""
    assert Settings(jwt_secret=value).jwt_keys == (value,)


def test_commas_separate_only_secrets_that_are_long_enough_for_their_algorithm() -> None:
    """With HS512 a secret of 32 bytes is none, so this value is one secret."""
    value = f"{NEW},{OLD}"
    assert Settings(jwt_secret=value, jwt_algorithms=("HS512",)).jwt_keys == (value,)


def test_each_of_several_secrets_is_checked(rsa_key: rsa.RSAPrivateKey) -> None:
    """The sentence has the number of the secret that is wrong, and shows none."""
    sentence = refusal(JWT_SECRET=f"{NEW}\nshort")
    assert sentence.startswith("JWT_SECRET, value 2 of 2, is 5 bytes long; HS256 needs 32")
    assert "nnn" not in sentence
    assert "JWT_PUBLIC_KEY" in refusal(JWT_SECRET=f"{NEW}\n{public(rsa_key)}")


def test_several_public_keys_are_in_one_file(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    """All keys in the file verify tokens. They must be of one kind."""
    keys = [rsa_key, rsa.generate_private_key(65537, 2048)]
    path = tmp_path / "keys.pem"
    path.write_text("".join(map(public, keys)))
    settings = Settings(jwt_public_key=str(path))
    assert settings.jwt_keys == tuple(public(key).strip() for key in keys)
    assert settings.jwt_algorithms == ("RS256",)
    mixed = public(rsa_key) + public(ec.generate_private_key(ec.SECP256R1()))
    assert "keys of different kinds" in refusal(JWT_PUBLIC_KEY=mixed)
    assert "1024 bits" in refusal(JWT_PUBLIC_KEY=public(rsa_key) + public(rsa.generate_private_key(65537, 1024)))


def test_a_secret_that_is_a_public_key_is_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    """A public key as HMAC secret is refused: it would let everyone sign tokens."""
    assert "JWT_PUBLIC_KEY" in refusal(JWT_SECRET=public(rsa_key))
    assert "JWT_PUBLIC_KEY" in refusal(JWT_SECRET='{"kty": "RSA", "n": "' + "A" * 40 + '"}')


@pytest.mark.parametrize("algorithm", ["none", "RS256", "hs256", "nonsense"])
def test_algorithms_must_fit_a_secret(algorithm: str) -> None:
    """With a secret, only HMAC algorithms are accepted, and never ``none``."""
    assert f"JWT_ALGORITHMS has {algorithm!r}" in refusal(JWT_SECRET=SECRET, JWT_ALGORITHMS=f"HS256,{algorithm}")


def test_the_default_algorithm_of_a_public_key(rsa_key: rsa.RSAPrivateKey) -> None:
    """Without JWT_ALGORITHMS, the usual algorithm for the kind of key is accepted."""
    keys: dict[str, PrivateKeyTypes] = {
        "RS256": rsa_key,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "ES256K": ec.generate_private_key(ec.SECP256K1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    for algorithm, key in keys.items():
        assert Settings(jwt_public_key=public(key)).jwt_algorithms == (algorithm,)
    assert Settings(jwt_public_key=public(ed448.Ed448PrivateKey.generate())).jwt_algorithms == ("EdDSA",)


def test_algorithms_must_fit_a_public_key(rsa_key: rsa.RSAPrivateKey) -> None:
    """An RSA key can be used with RS and PS, and never with HS, which would use the public key as a secret."""
    pem = public(rsa_key)
    assert Settings(jwt_public_key=pem, jwt_algorithms=("PS256", "RS512")).jwt_algorithms == ("PS256", "RS512")
    for algorithm in ("HS256", "ES256", "EdDSA", "none"):
        assert f"has {algorithm!r}" in refusal(JWT_PUBLIC_KEY=pem, JWT_ALGORITHMS=f"RS256, {algorithm}")


def test_a_secret_and_a_public_key_are_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    """Only one kind of key may be set, which excludes algorithm confusion."""
    assert "both set" in refusal(JWT_SECRET=SECRET, JWT_PUBLIC_KEY=public(rsa_key))


def test_a_public_key_may_be_a_file(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """JWT_PUBLIC_KEY may be a path, or PEM text in which ``\\n`` stands for a line end."""
    pem = public(rsa_key)
    path = tmp_path / "key.pem"
    path.write_text(pem)
    by_path = Settings.from_env({"JWT_PUBLIC_KEY": f"{path}\n"})
    by_escapes = Settings.from_env({"JWT_PUBLIC_KEY": pem.replace("\n", "\\n")})
    assert by_path == by_escapes == Settings(jwt_public_key=pem)


def test_an_unusable_public_key_is_explained(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """An unusable public key is refused with the reason, and not shown."""
    private = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    small = public(rsa.generate_private_key(65537, 1024))
    binary = tmp_path / "key.der"
    binary.write_bytes(b"\x30\x82\xff")
    cases = {
        private: "private key",
        small: "1024 bits",
        public(dsa.generate_private_key(2048)): "signs no tokens",
        public(ec.generate_private_key(ec.SECP224R1())): "signs no tokens",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----": "not a public key",
        str(tmp_path / "missing.pem"): "No such file",
        str(binary): "not a text file",
        "nul\0byte": "not a text file",
    }
    for value, reason in cases.items():
        sentence = refusal(JWT_PUBLIC_KEY=value)
        assert reason in sentence
        assert value not in sentence


def test_repr_does_not_show_a_public_key(rsa_key: rsa.RSAPrivateKey) -> None:
    """The key in PEM is not in repr."""
    assert "BEGIN" not in repr(Settings(jwt_public_key=public(rsa_key)))


def test_a_certificate_is_not_a_public_key(tmp_path: Path) -> None:
    """Identity providers publish certificates. The sentence explains how to get the key."""
    file = tmp_path / "certificate.pem"
    certificate = write_certificate(file).public_bytes(Encoding.PEM)
    file.write_bytes(certificate)
    for value in (certificate.decode(), str(file)):
        sentence = refusal(JWT_PUBLIC_KEY=value)
        assert "JWT_PUBLIC_KEY is a certificate" in sentence
        assert "openssl x509 -pubkey -noout" in sentence
