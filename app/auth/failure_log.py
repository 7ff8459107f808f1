"""Count failures that repeat, and log them without flooding the log.

An access check that cannot decide fails for every join until its cause is removed. At a few thousand joins a second, a
line for each would cost more than the joins.
"""

from __future__ import annotations

import logging
import time
from typing import Final

#: The least time between two log lines about the same cause, in seconds.
INTERVAL: Final = 60.0


class FailureLog:
    """Logs the first failure of each cause at once, and then at most one a minute.

    ``total`` is the number of all failures. The number of causes must be bounded, because they are kept.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger: Final = logger
        self.total = 0
        #: For each cause the time of the next line, and the number of failures since the last one.
        self._causes: Final[dict[str, tuple[float, int]]] = {}

    def add(self, cause: str, text: str, error: BaseException | None = None) -> None:
        """Count a failure. If no line about ``cause`` was logged in the last minute, log ``text``.

        The line has the number of failures since the last line, and the traceback of ``error``.
        """
        self.total += 1
        next_line, failures = self._causes.get(cause, (0.0, 0))
        failures += 1
        now = time.monotonic()
        if now >= next_line:
            level = logging.WARNING if error is None else logging.ERROR
            self._logger.log(level, "%s (failures since the last such line: %d)", text, failures, exc_info=error)
            next_line, failures = now + INTERVAL, 0
        self._causes[cause] = (next_line, failures)
