"""Secrets in files, which variables such as JWT_SECRET_FILE name."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
from settings_environment import SECRET, refusal

from roomcast.secret_files import read_secret
from roomcast.settings import Settings, file_variables


def test_every_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """Each variable with a secret has a variant that names a file. The line end at the end of the file is left out."""
    values = {"JWT_SECRET": SECRET, "API_KEY": "ap1-key", "REDIS_URL": "redis://:pa55@cache"}
    environ = {}
    for name, value in values.items():
        path = tmp_path / name
        path.write_text(f"{value}\r\n")
        environ[f"{name}_FILE"] = f" {path} "
    settings = Settings.from_env(environ)
    assert (settings.jwt_secret, settings.api_key, settings.redis_url) == tuple(values.values())
    assert {*environ, "JWT_PUBLIC_KEY_FILE", "ROOM_ACCESS_SECRET_FILE"} <= set(file_variables())
    assert "LOG_LEVEL_FILE" not in file_variables()


def test_a_list_of_secrets_may_be_in_a_file(tmp_path: Path) -> None:
    """The secrets are separated by commas or line ends, as in the variable."""
    secrets = tuple(f"whsec_{b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
    (tmp_path / "secrets").write_text("\n".join(secrets))
    settings = Settings.from_env({"JWT_SECRET": SECRET, "ROOM_ACCESS_SECRET_FILE": str(tmp_path / "secrets")})
    assert settings.room_access_secret == secrets
    assert Settings.from_env({"JWT_SECRET": SECRET, "ROOM_ACCESS_SECRET": ", ".join(secrets)}) == settings


def test_both_variants_are_refused(tmp_path: Path) -> None:
    """A value and a file would contradict each other."""
    path = tmp_path / "key"
    path.write_text("ap1-key")
    sentence = refusal(JWT_SECRET=SECRET, API_KEY="other-key", API_KEY_FILE=str(path))
    assert sentence == "API_KEY and API_KEY_FILE are both set; unset one of them."
    assert read_secret("API_KEY", {"API_KEY": " ", "API_KEY_FILE": str(path)}) == "ap1-key"
    assert read_secret("API_KEY", {"API_KEY": "ap1-key", "API_KEY_FILE": " "}) == "ap1-key"
    assert read_secret("API_KEY", {"API_KEY": " "}) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "which cannot be read (No such file or directory)"),
        (b"", "which is empty"),
        (b" \n", "which is empty"),
        (b"\xff\xfe", "which cannot be read (not a text file)"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, content: bytes | None, words: str) -> None:
    """The sentence has the variable, the path and the reason."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    sentence = refusal(JWT_SECRET_FILE=str(path))
    assert sentence.startswith(f"JWT_SECRET_FILE is '{path}'")
    assert words in sentence


def test_a_wrong_value_in_a_file_is_not_shown(tmp_path: Path) -> None:
    """The content of the file is checked like the variable."""
    path = tmp_path / "secret"
    path.write_text("short-0ne")
    sentence = refusal(JWT_SECRET_FILE=str(path))
    assert "JWT_SECRET is 9 bytes long" in sentence
    assert "short-0ne" not in sentence


def test_settings_are_read_again(tmp_path: Path) -> None:
    """Only the named fields are read. A wrong value raises, and the settings are unchanged."""
    path = tmp_path / "key"
    path.write_text("first-key")
    environ = {"JWT_SECRET": SECRET, "API_KEY_FILE": str(path), "HISTORY_SIZE": "7"}
    settings = Settings.from_env(environ)
    path.write_text("second-key")
    again = settings.read_again(("api_key",), {**environ, "HISTORY_SIZE": "8"})
    assert (settings.api_key, again.api_key) == ("first-key", "second-key")
    assert (again.history_size, again.jwt_secret) == (7, SECRET)
    assert again.read_again(("api_key",), {}).api_key is None
    assert settings.read_again(("jwt_secret", "jwt_public_key", "jwt_algorithms"), environ) == settings
