"""User ids: the allowed texts, the normal form of each id, and the names of personal rooms.

An id is the text that the application's identity provider assigned, such as ``auth0|5f7c1``. It is compared code point
by code point (RFC 7519, section 2): nothing changes its case, its spaces or its Unicode normalization.

A token, a path of the HTTP API and the command line may write the id of one user differently: as ``42`` or as ``"42"``.
Both become the same id here, so that they name the same user and the same room ``user:42``.

In the name of a room and in an idempotency key, an id is percent-encoded (``quote_user_id``), so that it cannot contain
their separators.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

#: The largest id that is a number. A browser would round larger ones (RFC 8259 section 6), so these stay strings.
MAX_NUMBER: Final = 2**53 - 1
#: The greatest length of an id, in characters (code points).
MAX_LENGTH: Final = 255
#: The form of an id, for error sentences.
FORM: Final = f"a text of 1 to {MAX_LENGTH} characters without control characters, other than . and .."

#: No control characters, which can disturb logs and terminals, and no surrogates, which cannot be encoded. A client
#: would remove . and .. from a path (RFC 3986, section 5.2.4).
_is_user_id: Final = re.compile(rf"(?!\.{{1,2}}\Z)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{MAX_LENGTH}}}").fullmatch
_is_decimal: Final = re.compile(r"0|[1-9][0-9]{0,15}").fullmatch
#: The texts that percent-encoding does not change.
_is_plain: Final = re.compile(r"[A-Za-z0-9._~-]+").fullmatch
_has_bad_escape: Final = re.compile(r"%(?![0-9A-Fa-f]{2})").search

_PERSONAL: Final = "user:"
#: The greatest length of a personal room's name: 4 bytes for each character, and 3 for each of these.
_MAX_PERSONAL: Final = len(_PERSONAL) + MAX_LENGTH * 4 * 3
#: The form of a personal room's name, for documents. ``normalize_personal_room`` checks it.
PERSONAL_ROOM_PATTERN: Final = "^user:.+$"


def parse_user_id(value: object) -> int | str:
    """Return the user id that ``value``, a string or a number, stands for.

    Raises ``ValueError`` if it is neither a text of the form ``FORM`` nor a whole number that is not negative.
    """
    text = str(value) if type(value) is int and value >= 0 else value
    if not isinstance(text, str) or not _is_user_id(text):
        raise ValueError("not a user id")
    return normalize_user_id(text)


def normalize_user_id(text: str) -> int | str:
    """Return ``text`` as a number if it is a decimal number up to ``MAX_NUMBER``, otherwise unchanged."""
    return int(text) if _is_decimal(text) and int(text) <= MAX_NUMBER else text


def quote_user_id(user_id: int | str) -> str:
    """Return the id percent-encoded. Only letters, digits, dot, hyphen, underscore and tilde stay as they are."""
    if not isinstance(user_id, str):
        return str(user_id)
    return user_id if _is_plain(user_id) else _quote(user_id)


@lru_cache(maxsize=4096)
def _quote(text: str) -> str:
    """Percent-encode ``text``. A connection and a command with a key need this several times, and it takes 2 us."""
    return quote(text, safe="")


def personal_room(user_id: int | str) -> str:
    """Return the normal name of a user's personal room."""
    return _PERSONAL + quote_user_id(user_id)


def normalize_personal_room(name: str) -> str:
    """Return the normal name of the personal room ``name``.

    Encoders leave different characters as they are, and an id without a percent sign may be written as it is. All of
    these are accepted. Raises ``ValueError`` if the rest of the name after ``user:`` is no user id.
    """
    if len(name) > _MAX_PERSONAL:  # decoding 64 KB takes 4 ms
        raise ValueError("too long")
    return personal_room(parse_user_id(decode_percent(name.removeprefix(_PERSONAL))))


def user_of_room(room: str) -> int | str | None:
    """Return the user whose personal room has the normal name ``room``, or None for other rooms."""
    return parse_user_id(decode_percent(room.removeprefix(_PERSONAL))) if room.startswith(_PERSONAL) else None


def decode_percent(text: str) -> str:
    """Decode the percent-encoding of ``text``; raise ``ValueError`` if that is malformed or not UTF-8."""
    if "%" not in text:
        return text
    if _has_bad_escape(text):
        raise ValueError("a percent sign without two hexadecimal digits")
    return unquote_to_bytes(text).decode()
