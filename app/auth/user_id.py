"""User ids: the allowed form, and the normal form of each id.

A token, a path of the HTTP API and the command line may write the id of one user differently: as ``42`` or as ``"42"``.
Both become the same id here, so that they name the same user and the same room ``user:42``.
"""

from __future__ import annotations

import re
from typing import Final

from ..broker.base import UserId

#: The largest id that is a number. A browser would round larger ones (RFC 8259 section 6), so these stay strings.
MAX_NUMBER: Final = 2**53 - 1

# A user id is also the second half of a room's name, so it must fit there.
_is_user_id: Final = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch
_is_decimal: Final = re.compile(r"0|[1-9][0-9]{0,15}").fullmatch


def parse_user_id(value: object) -> UserId:
    """Return the user id that ``value``, a string or a number, stands for.

    Raises ``ValueError`` if it is neither 1 to 128 letters, digits, dots, hyphens and underscores, nor a whole number
    that is not negative.
    """
    text = str(value) if type(value) is int and value >= 0 else value
    if not isinstance(text, str) or not _is_user_id(text):
        raise ValueError("not a user id")
    return normalize_user_id(text)


def normalize_user_id(text: str) -> UserId:
    """Return ``text`` as a number if it is a decimal number up to ``MAX_NUMBER``, otherwise unchanged."""
    return int(text) if _is_decimal(text) and int(text) <= MAX_NUMBER else text
