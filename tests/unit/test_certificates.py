"""Tests of ``certificates``: when a certificate is valid, and when to warn."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificate_files import write_certificate

from roomcast.certificates import Validity, problem_of_authorities, validity_of_chain

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def validity(begin: timedelta, end: timedelta) -> Validity:
    """Return a validity relative to now."""
    now = datetime.now(UTC)
    return Validity(now + begin, now + end)


@pytest.mark.parametrize(
    ("begin", "end", "problem", "warning"),
    [
        (-30 * DAY, 60 * DAY, None, None),
        (-76 * DAY, 14 * DAY + HOUR, None, None),
        (-77 * DAY, 14 * DAY - HOUR, None, "expires on "),
        (-3 * DAY, 3 * DAY, None, None),
        (-5 * DAY, 1 * DAY, None, "expires on "),
        (-90 * DAY, -HOUR, "expired on ", "expired on "),
        (HOUR, 90 * DAY, "is not valid before ", "is not valid before "),
    ],
)
def test_the_end_of_a_certificate(begin: timedelta, end: timedelta, problem: str | None, warning: str | None) -> None:
    """The warning comes in the last third of the lifetime, but not earlier than 14 days before the end."""
    one = validity(begin, end)
    for expected, given in ((problem, one.problem()), (warning, one.warning())):
        if expected is None:
            assert given is None
        else:
            assert given is not None
            assert given.startswith(expected)
            assert given.endswith(" UTC")


def test_the_validity_is_that_of_the_first_certificate(tmp_path: Path) -> None:
    """A chain begins with the certificate of the server."""
    first, second = (write_certificate(tmp_path / f"{n}.pem", end=n * DAY) for n in (1, 2))
    chain = tmp_path / "chain.pem"
    chain.write_bytes((tmp_path / "1.pem").read_bytes() + (tmp_path / "2.pem").read_bytes())
    assert validity_of_chain(chain) == (first.not_valid_before_utc, first.not_valid_after_utc)
    assert first.not_valid_after_utc < second.not_valid_after_utc
    chain.write_bytes(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    assert validity_of_chain(chain) is None


def test_one_valid_authority_is_enough(tmp_path: Path) -> None:
    """Files of authorities often contain old certificates."""
    old, new, both = (tmp_path / name for name in ("old.pem", "new.pem", "both.pem"))
    write_certificate(old, -2 * DAY, -DAY, ca=True)
    write_certificate(new, ca=True)
    both.write_bytes(old.read_bytes() + new.read_bytes())
    problem = problem_of_authorities(ssl.create_default_context(cafile=old))
    assert problem is not None
    assert problem.startswith("expired on ")
    for path in (new, both):
        assert problem_of_authorities(ssl.create_default_context(cafile=path)) is None
    assert problem_of_authorities(ssl.create_default_context()) is None
