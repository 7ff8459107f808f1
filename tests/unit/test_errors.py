"""Tests of ``errors``."""

from __future__ import annotations

import re
import traceback

from paths import ROOT

from roomcast.errors import ERROR_CODES, BrokerUnavailable, Unavailable


async def test_error_codes() -> None:
    """Each error code has a meaning that end_records with a full stop."""
    for code, (meaning, temporary) in ERROR_CODES.items():
        assert re.fullmatch("[a-z_]+", code) and meaning.endswith(".") and isinstance(temporary, bool)


def test_clients_get_the_same_sentence_for_every_failure_of_the_broker() -> None:
    """The detail is for the log: it is in tracebacks, and not in the message."""
    error = BrokerUnavailable("Redis at 10.0.0.7:6379 cannot be reached: connection refused.")
    assert "10.0.0.7" not in str(error) + repr(error)
    assert error.detail in "".join(traceback.format_exception(error))
    assert Unavailable("It is closed.").detail == "It is closed."


def test_brokers_raise_the_class_without_their_detail() -> None:
    """The message of ``Unavailable`` is for clients, so modules of brokers, which name servers, do not create one."""
    for path in (ROOT / "app" / "broker").rglob("*.py"):
        created = re.findall(r"(?<!except )(?<!\w)Unavailable\(", path.read_text())
        assert not created, f"{path} creates Unavailable; raise BrokerUnavailable"
