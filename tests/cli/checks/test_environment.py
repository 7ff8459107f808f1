"""The findings of ``roomcast doctor`` about settings."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import pytest
from certificate_files import write_certificate
from settings_environment import SECRET

from roomcast import registry
from roomcast.cli.checks.environment import (
    check_certificate,
    check_machine,
    check_names,
    check_room_types,
    check_settings,
)
from roomcast.cli.checks.finding import FAIL, OK, WARN
from roomcast.web.capacity import open_file_limit

ROOM_ACCESS_SECRET = f"whsec_{b64encode(b'a' * 32).decode()}"


@pytest.mark.parametrize(
    ("origins", "warning"),
    [
        ("*", "pages of every site may connect"),
        ("https://app.example.com,null", "every site can embed a sandboxed page"),
        ("https://*.example.com", None),
    ],
)
def test_origins_that_every_site_can_use_are_a_warning(origins: str, warning: str | None) -> None:
    """A sandboxed frame has the origin null, whatever site embeds it."""
    findings = check_settings({"JWT_SECRET": SECRET, "ALLOWED_ORIGINS": origins})
    found = [finding.sentence for finding in findings if finding.level == WARN and "ORIGINS" in finding.sentence]
    assert len(found) == (0 if warning is None else 1)
    assert warning is None or warning in found[0]


@pytest.mark.parametrize(
    ("access", "secret", "warning"),
    [
        ("https://app.example.com/may-join", "", "the URL in ROOM_ACCESS cannot verify"),
        ("https://app.example.com/may-join", ROOM_ACCESS_SECRET, None),
        ("claims", ROOM_ACCESS_SECRET, "has no effect, because ROOM_ACCESS is claims"),
        ("claims", "", None),
    ],
)
def test_unsigned_requests_to_the_access_url_are_a_warning(access: str, secret: str, warning: str | None) -> None:
    """A URL needs a secret, and a secret needs a URL."""
    findings = check_settings({"JWT_SECRET": SECRET, "ROOM_ACCESS": access, "ROOM_ACCESS_SECRET": secret})
    found = [finding.sentence for finding in findings if "ROOM_ACCESS_SECRET" in finding.sentence]
    assert len(found) == (0 if warning is None else 1)
    assert warning is None or warning in found[0]


def findings(**environ: str) -> list[tuple[str, str]]:
    """Return the level and the sentence of each finding about an environment."""
    return [(finding.level, finding.sentence) for finding in (*check_settings(environ), *check_names(environ))]


def test_secrets_in_files_are_checked(tmp_path: Path) -> None:
    """Secrets in files are checked like variables, and the names of their variables are known."""
    path = tmp_path / "secrets"
    path.write_text(f"{SECRET}\n{'x' * 40}\n")
    (tmp_path / "keys").write_text("0123456789-0123456789\nabcdefghij-abcdefghij\n")
    found = findings(JWT_SECRET_FILE=str(path), API_KEY_FILE=str(tmp_path / "keys"))
    assert (WARN, "JWT_SECRET is easy to guess; generate one with `openssl rand -base64 48`.") in found
    assert (OK, "API_KEY is set (2 keys): backends can publish.") in found
    assert not any("not a setting" in sentence for _, sentence in found)
    path.write_text(f"{SECRET}\n{SECRET[::-1]}\n")
    words = f"JWT_SECRET is {len(SECRET)} bytes long (HS256; 1 more for tokens that were signed with another key)."
    assert (OK, words) in findings(JWT_SECRET_FILE=str(path))


def test_named_keys() -> None:
    """Each has a line with its scopes and rooms. A mistake does not hide other problems."""
    keys = {
        "billing": {"key": "0123456789-abcdefghij", "scopes": ["publish"], "rooms": ["project:*", "task:1"]},
        "support": {"key": "abcdefghij-0123456789", "scopes": ["read", "moderate"]},
        "weak": {"key": "x" * 40, "scopes": ["read"]},
    }
    found = findings(JWT_SECRET=SECRET, API_KEYS=json.dumps(keys))
    assert (OK, "The key billing in API_KEYS may publish: project:*, task:1.") in found
    assert (OK, "The key support in API_KEYS may read and moderate: all rooms.") in found
    assert any(level == WARN and "key weak in API_KEYS is easy to guess" in sentence for level, sentence in found)
    assert not any("HTTP API is off" in sentence for _, sentence in found)
    found = findings(JWT_SECRET=SECRET, API_KEYS="{", HISTORY_SIZE="many")
    wrong = [sentence for level, sentence in found if level == FAIL]
    assert len(wrong) == 2 and any(sentence.startswith("API_KEYS is not JSON") for sentence in wrong)


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWT_PUBLIC_KEY", "API_KEY", "API_KEYS", "REDIS_URL"])
def test_a_wrong_file_does_not_hide_other_problems(name: str) -> None:
    """The file is reported, and then the next problem."""
    environ = {"JWT_SECRET": SECRET, "HISTORY_SIZE": "many", f"{name}_FILE": "/no/such/file"}
    if name.startswith("JWT_"):
        del environ["JWT_SECRET"]
    wrong = [sentence for level, sentence in findings(**environ) if level == FAIL]
    assert len(wrong) == 2
    assert any(f"{name}_FILE is '/no/such/file'" in sentence for sentence in wrong)
    assert any("HISTORY_SIZE is 'many'" in sentence for sentence in wrong)


@pytest.mark.parametrize(
    ("begin", "end", "level", "words"),
    [
        (-60, 30, OK, "is valid until"),
        (-80, 10, WARN, "expires on"),
        (-90, -1, FAIL, "expired on"),
        (1, 90, FAIL, "is not valid before"),
    ],
)
def test_the_certificate_is_checked(tmp_path: Path, begin: int, end: int, level: str, words: str) -> None:
    """The files of --tls-cert and --tls-key are checked as serve does, and for the time until they expire."""
    file = tmp_path / "both.pem"
    write_certificate(file, timedelta(days=begin), timedelta(days=end))
    (finding,) = check_certificate(file, None)
    assert finding.level == level
    assert f"{file} {words}" in finding.sentence
    assert not list(check_certificate(None, None))
    (finding,) = check_certificate(tmp_path / "none.pem", None)
    assert (finding.level, "cannot be read" in finding.sentence) == (FAIL, True)


def test_a_limit_of_connections_that_open_files_do_not_allow_is_a_warning() -> None:
    """The warning has both numbers. A limit that fits is none, however low the limit of open files is."""
    limit = open_file_limit()
    if limit is None:
        pytest.skip("this machine has no limit of open files")
    too_many = [finding.sentence for finding in check_machine({"MAX_CONNECTIONS": str(limit)})]
    assert f"MAX_CONNECTIONS is {limit}, but {limit} open files" in too_many[0]
    assert next(check_machine({"MAX_CONNECTIONS": "10"})).level == OK


def test_options_of_room_types_are_checked() -> None:
    """Each wrong variable has a line, those in effect are listed, and similar names are a warning."""
    environ = {
        "ROOM_CHANEL_PRESENCE": "false",
        "ROOM_CHANNEL_HISTORY_SIZE": "many",
        "ROOM_TASK_HISTORY_TTL": "60",
        "ROOM_CHANNL_HISTORY_TTLS": "60",
        "HISTORY_SIZE": "wrong, but reported by another check",
        "ROOM_ACCESS": "also wrong",
        "ROOM_ACCESS_TIMEOUT": "5",
    }
    found = [(finding.level, finding.sentence) for finding in check_room_types(registry.load(), environ)]
    assert [level for level, _ in found] == [FAIL, FAIL, OK, WARN]
    assert found[0][1].startswith("ROOM_CHANEL_PRESENCE is 'false', but no plugin declares a room type 'chanel'")
    assert found[1][1].startswith("ROOM_CHANNEL_HISTORY_SIZE is 'many'; it must be a whole number")
    assert found[2][1] == "Options of room types: ROOM_TASK_HISTORY_TTL=60."
    assert found[3][1].startswith(
        "ROOM_CHANNL_HISTORY_TTLS is not a setting and has no effect. Did you mean ROOM_CHANNEL_"
    )
    assert not list(check_room_types(registry.load(), {}))
