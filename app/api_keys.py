"""The keys of the HTTP API: those in ``API_KEY``, which may do everything, and the named ones in ``API_KEYS``.

``API_KEYS`` is a JSON object. Each member is the name of a key with its value, its scopes and optionally its rooms::

    {"billing": {"key": "…", "scopes": ["publish"], "rooms": ["project:*"]}}
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from . import room_patterns
from .errors import SettingsError
from .setting_rules import check_api_key, show, split_values

#: The scopes that a key may have. ``docs/http-api.md`` lists the calls of each.
SCOPES: Final = ("publish", "read", "moderate")
#: The name of the keys in ``API_KEY``.
UNNAMED: Final = "API_KEY"
#: The minimum length of a named key, in characters. `openssl rand -base64 30` returns 40.
MIN_LENGTH: Final = 20

_FIELDS: Final = ("key", "scopes", "rooms")
_is_name: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").fullmatch
_is_key: Final = re.compile(r"[!-~]+").fullmatch


class ApiKey(NamedTuple):
    """A key of the HTTP API, and what it allows.

    ``secrets`` are the values of the key, each of which is accepted. ``rooms`` are patterns, or None for all rooms.
    """

    name: str
    secrets: tuple[str, ...] = ()
    scopes: tuple[str, ...] = SCOPES
    rooms: tuple[str, ...] | None = None

    def allows(self, room: str) -> bool:
        """Return True if the key may be used for ``room``, including personal rooms."""
        return self.rooms is None or room_patterns.matches(self.rooms, room)

    @property
    def sees_details(self) -> bool:
        """True if the owner of the key may see the causes of failures, which name servers: it may read everything."""
        return self.rooms is None and "read" in self.scopes

    def __repr__(self) -> str:
        return f"ApiKey({self.name!r}, scopes={self.scopes}, rooms={self.rooms})"


class ApiKeys:
    """All keys of a server."""

    def __init__(self, keys: list[ApiKey]) -> None:
        self._keys: Final = keys
        self._digests: Final = [(_digest(secret), key) for key in keys for secret in key.secrets]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys)

    def find(self, given: str) -> ApiKey | None:
        """Return the key with the value ``given``, or None.

        The time does not depend on how much of a wrong value is right, because hashes are compared, with all keys.
        """
        digest, found = _digest(given), None
        for known, key in self._digests:
            if hmac.compare_digest(digest, known):
                found = key
        return found


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


@lru_cache(maxsize=2)
def read_api_keys(unnamed: str | None, named: str | None) -> ApiKeys:
    """Return the keys in ``API_KEY`` and ``API_KEYS``. Raises ``SettingsError``, without a value of a key."""
    check_api_key(unnamed)
    keys = [] if unnamed is None else [ApiKey(UNNAMED, split_values(unnamed))]
    if named is not None:
        keys += [_read_entry(name, entry) for name, entry in _parse(named).items()]
    names: dict[str, str] = {}
    for key in keys:
        for secret in key.secrets:
            if (other := names.setdefault(secret, key.name)) != key.name:
                raise SettingsError(f"API_KEYS: {key.name} has the same key as {other}; generate one for each name.")
    return ApiKeys(keys)


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SettingsError(
            f'API_KEYS is not JSON ({where}); write {{"NAME": {{"key": "…", "scopes": ["publish"]}}}}, or the path of '
            "a file with that in API_KEYS_FILE."
        ) from None
    if not isinstance(document, dict) or not document:
        raise SettingsError(
            'API_KEYS must be a JSON object with names, like {"NAME": {"key": "…", "scopes": ["read"]}}.'
        )
    return document


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with ``members``; raise ``SettingsError`` if two have the same name."""
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"API_KEYS has {show(twice)} twice in one object; give each name once.")
    return found


def _read_entry(name: str, entry: Any) -> ApiKey:
    """Return the key ``name``; raise ``SettingsError``."""
    if not _is_name(name) or name == UNNAMED:
        raise SettingsError(
            f"API_KEYS has the name {show(name)}; a name has 1 to 64 letters, digits, - and _, and is not API_KEY."
        )
    if not isinstance(entry, dict):
        raise SettingsError(f'API_KEYS: {name} must be an object like {{"key": "…", "scopes": ["publish"]}}.')
    if unknown := [field for field in entry if field not in _FIELDS]:
        raise SettingsError(f"API_KEYS: {name} has the field {show(unknown[0])}; it may have key, scopes and rooms.")
    return ApiKey(name, _read_secrets(name, entry), _read_scopes(name, entry), _read_rooms(name, entry))


def _read_secrets(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    given = entry.get("key")
    secrets = given if isinstance(given, list) else [given]
    if not secrets or not all(isinstance(one, str) and _is_key(one) and len(one) >= MIN_LENGTH for one in secrets):
        raise SettingsError(
            f"API_KEYS: the key of {name} must be a text of at least {MIN_LENGTH} visible ASCII characters, like the "
            "output of `openssl rand -base64 30`, or a list of such texts, each of which is accepted."
        )
    return tuple(secrets)


def _read_scopes(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    scopes = entry.get("scopes")
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise SettingsError(f"API_KEYS: the scopes of {name} must be a list of {', '.join(SCOPES)}.")
    return tuple(scope for scope in SCOPES if scope in scopes)


def _read_rooms(name: str, entry: dict[str, Any]) -> tuple[str, ...] | None:
    if "rooms" not in entry:
        return None
    rooms = entry["rooms"]
    if not isinstance(rooms, list) or not rooms:
        raise SettingsError(f"API_KEYS: the rooms of {name} must be a list of patterns; leave it out for all rooms.")
    for room in rooms:
        if not isinstance(room, str) or not room_patterns.is_pattern(room):
            raise SettingsError(
                f"API_KEYS: the rooms of {name} contain {show(room)}; a pattern is a room like project:123, all rooms "
                "of a type like project:*, or *."
            )
    return None if "*" in rooms else tuple(dict.fromkeys(rooms))
