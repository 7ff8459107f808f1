"""``GET /console/problems`` in ``roomcast dev``: what went wrong in plugins, for the console.

Tracebacks can contain anything that a plugin handles. So only a development server has them in its console.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

from aiohttp import web

from ...logs import RedactingFilter
from .. import console_session

PATH: Final = "/console/problems"
#: How many tracebacks are kept, and how many characters of each. The end of a traceback has its cause.
MAX_TRACEBACKS: Final = 20
MAX_LENGTH: Final = 20_000


class DevProblems(logging.Handler):
    """Keeps the newest tracebacks of the log, and the reason why a plugin could not be loaded.

    ``loads`` counts how often the plugins were loaded again. The console offers to reload the page then.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(RedactingFilter())
        self.plugin_problem: str | None = None
        self.loads = 0
        self._tracebacks: Final[deque[dict[str, Any]]] = deque(maxlen=MAX_TRACEBACKS)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the traceback of a record, whose text the filter has made."""
        if record.exc_text:
            self._count += 1
            self._tracebacks.append(
                {
                    "number": self._count,
                    "time": time.strftime("%H:%M:%S", time.localtime(record.created)),
                    "message": record.getMessage(),
                    "traceback": record.exc_text[-MAX_LENGTH:],
                }
            )

    def document(self) -> dict[str, Any]:
        """Return what the console shows."""
        return {"plugin": self.plugin_problem, "loads": self.loads, "tracebacks": list(self._tracebacks.copy())}


#: Those of this process, whose log they come from.
problems: Final = DevProblems()


async def show_problems(request: web.Request) -> web.StreamResponse:
    """Answer with the problems, for the page of the console only."""
    if console_session.console_key(request) is None:
        raise web.HTTPForbidden(text="Only the console's own page can read the problems.\n")
    return web.json_response(problems.document(), headers={"Cache-Control": "no-store"})
