"""The counters of one node, for its metrics."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..errors import CLOSES, ERROR_CODES, Close
from ..transport.connection import LOST, SILENT

#: Ends that the server decides on.
SERVER_ENDS: Final = frozenset({*CLOSES, LOST, SILENT})
#: Ends of clients that close with a browser's codes: 1000 by the page, 1001 when the page is left, 1005 without a code.
CLIENT_ENDS: Final = {code: Close(code, "Closed By Client", reconnect=False) for code in (1000, 1001, 1005)}
#: All other ends. A client may close with any code and text, so these are one label.
OTHER_END: Final = Close(0, "Closed By Client", reconnect=False)
#: The label of error frames whose code a plugin defines.
PLUGIN_CODE: Final = "plugin"


class Counters:
    """Plain integers. All parts of the gateway count here, and ``web.ops.metrics`` reads them for each request."""

    def __init__(self) -> None:
        #: Messages received from clients, refused ones included.
        self.messages_received = 0
        #: Events received from the broker.
        self.events = 0
        #: Events published through the HTTP API.
        self.http_events = 0
        #: Deliveries of live events that were left out: of events that were dropped because too many waited, and to
        #: connections that could take no more bytes.
        self.live_overflows = 0
        self.live_skips = 0
        #: Evaluations of plugins' rules that failed, and so gave no decision.
        self.failed_rules = 0
        #: How many WebSockets this process admits.
        self.max_connections = 0
        #: Sockets of clients that were closed because of a limit, by the reason.
        self.closed_sockets: Final[Counter[str]] = Counter()
        #: How often no file descriptor was left when that was checked.
        self.descriptor_shortages = 0
        #: When the TLS certificate in use expires, as a Unix time; None without TLS.
        self.certificate_expires: float | None = None
        #: Error frames by code.
        self.errors: Final[Counter[str]] = Counter()
        #: Connections by their end, refused ones included.
        self.ends: Final[Counter[Close]] = Counter()

    def count_error(self, code: str) -> None:
        """Count an error frame with ``code``."""
        self.errors[code if code in ERROR_CODES else PLUGIN_CODE] += 1

    def count_end(self, end: Close) -> None:
        """Count a connection that ended or was refused with ``end``."""
        self.ends[CLIENT_ENDS.get(end.code) or (end if end in SERVER_ENDS else OTHER_END)] += 1
