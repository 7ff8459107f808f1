"""Whether and when a request is sent again. Nothing in this module does I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: The statuses after which the same request can succeed: see ``is_temporary``.
_TEMPORARY: Final = frozenset((429, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Retries:
    """How requests are repeated. All values are in seconds.

    A request is repeated after a lost connection, a timeout, and an answer that says that another attempt can succeed
    (409 ``in_progress``, 429, 502, 503, 504). Each pause is twice as long as the one before, from ``first_pause`` to
    ``longest_pause``, and half of it is random. An answer with ``Retry-After`` makes it longer. No attempt begins later
    than ``deadline`` after the first one. With ``deadline=0``, nothing is repeated.
    """

    first_pause: float = 0.2
    longest_pause: float = 5.0
    deadline: float = 30.0

    def pause(self, attempt: int, retry_after: float | None) -> float:
        """Return how long to wait after the failure of ``attempt``, which counts from 0."""
        pause = min(self.first_pause * 2.0 ** min(attempt, 64), self.longest_pause)
        pause *= random.uniform(0.5, 1)  # noqa: S311  # no secret
        return max(pause, retry_after or 0.0)


def is_temporary(status: int, code: str) -> bool:
    """Return True if the same request can succeed later. More attempts with a wrong key only extend its lockout."""
    return code == "in_progress" or (status in _TEMPORARY and code != "too_many_wrong_keys")
