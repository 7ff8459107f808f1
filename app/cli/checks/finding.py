"""One result of a check."""

from __future__ import annotations

from typing import NamedTuple

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    """One line of the output of ``roomcast doctor``: ``level`` is OK, WARN or FAIL."""

    level: str
    sentence: str
