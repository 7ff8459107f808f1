"""The cause of an outage of a source."""

from __future__ import annotations


def first_cause(error: BaseException) -> BaseException:
    """Return ``error``, or the first exception in it if it is a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
