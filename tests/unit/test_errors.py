"""Tests of ``errors``."""

from __future__ import annotations

import re

from roomcast.errors import ERROR_CODES


async def test_error_codes() -> None:
    """Each error code has a meaning that end_records with a full stop."""
    for code, (meaning, temporary) in ERROR_CODES.items():
        assert re.fullmatch("[a-z_]+", code) and meaning.endswith(".") and isinstance(temporary, bool)
