"""Count failures that repeat, and log them without flooding the log.

An access check that cannot decide fails for every join until its cause is removed. At a few thousand joins a second, a
line for each would cost more than the joins. The same holds for handlers of plugins that raise exceptions, for requests
without the broker, and for malformed requests.
"""

from __future__ import annotations

import logging
import time
from typing import Final
from weakref import WeakSet

#: The time in which one cause has a limited number of log lines, in seconds.
INTERVAL: Final = 60.0
#: How many lines an unexpected exception may have in this time, so that a developer who repeats a request sees it.
EXCEPTION_LINES: Final = 10

_logs: Final[WeakSet[FailureLog]] = WeakSet()


class FailureLog:
    """Logs the first failures of each cause at once: ``lines`` of them, by default one, in a minute.

    ``total`` is the number of all failures. The number of causes must be bounded, because they are kept.
    """

    def __init__(self, logger: logging.Logger, lines: int = 1, level: int = logging.WARNING) -> None:
        self._logger: Final = logger
        self._lines: Final = lines
        #: The level of failures without an exception. The others are errors.
        self._level: Final = level
        self.total = 0
        #: For each cause the end of its minute, the lines left in it, the number of failures since the last line, and
        #: the level and text of the last failure.
        self._causes: Final[dict[str, tuple[float, int, int, int, str]]] = {}
        _logs.add(self)

    def add(self, cause: str, text: str, error: BaseException | None = None) -> None:
        """Count a failure. If ``cause`` may have another line in this minute, log ``text``.

        The line has the number of failures since the last line if there were several, and the traceback of ``error``.
        """
        self.total += 1
        end, lines, failures, *_ = self._causes.get(cause, (0.0, 0, 0))
        failures += 1
        now = time.monotonic()
        if now >= end:
            end, lines = now + INTERVAL, self._lines
        level = self._level if error is None else logging.ERROR
        if lines:
            self._write(level, text, failures, error)
            lines, failures = lines - 1, 0
        self._causes[cause] = (end, lines, failures, level, text)

    def report(self, *, is_last: bool = False) -> None:
        """Log the failures that no line has counted: see ``report_uncounted``."""
        now = time.monotonic()
        for cause, (end, _, failures, level, text) in list(self._causes.items()):
            if now >= end or is_last:
                del self._causes[cause]
                if failures:
                    self._write(level, text, failures, None)

    def _write(self, level: int, text: str, failures: int, error: BaseException | None) -> None:
        count = f" (failures since the last such line: {failures})" if failures > 1 else ""
        self._logger.log(level, "%s%s", text, count, exc_info=error)


def report_uncounted(*, is_last: bool = False) -> None:
    """Log the failures that no line of any ``FailureLog`` has counted, of each cause whose minute is over.

    Call it about every second. With ``is_last``, do so for all causes, because the server stops.
    """
    for failures in list(_logs):
        failures.report(is_last=is_last)


def place_of(error: BaseException) -> str:
    """Return the type of an exception and the line that raised it, as the cause of a failure."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = "" if trace is None else f" {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__}{line}"
