"""Limits the wrong API keys from one address, in the HTTP API, for details of failures, and at the console's login.

The right key is always accepted, so that a program with an old key does not lock out others at its address. A long key
cannot be guessed at any rate. The limit keeps most guesses out of the log, and makes each one cost a new connection.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final

from aiohttp import web

from .app_state import GATEWAY
from .client_address import client_address, client_network
from .failure_logs import FAILURE_LOGS

log = logging.getLogger("roomcast.api")

#: How many wrong keys an IPv4 address or the /64 of an IPv6 address may send within ``WINDOW`` seconds.
MAX_WRONG_KEYS: Final = 5
WINDOW: Final = 60.0


class WrongKeys:
    """Allows each address at most ``limit`` wrong keys within ``window`` seconds of ``clock``.

    Only the latest ``max_addresses`` addresses are stored.
    """

    def __init__(
        self,
        limit: int = MAX_WRONG_KEYS,
        window: float = WINDOW,
        *,
        max_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit: Final = limit
        self._window: Final = window
        self._max_addresses: Final = max_addresses
        self._clock: Final = clock
        #: The times of the last ``limit`` attempts of each address. The address that tried last is the last key.
        self._attempts: Final[dict[str, deque[float]]] = {}

    def wait(self, address: str) -> float:
        """Return the seconds until ``address`` may try again; 0 if it may now."""
        attempts = self._attempts.get(address)
        if attempts is None or len(attempts) < self._limit:
            return 0.0
        return max(attempts[0] + self._window - self._clock(), 0.0)

    def add(self, address: str) -> None:
        """Count an attempt, and drop addresses whose attempts are older than the window."""
        now = self._clock()
        attempts = self._attempts.pop(address, None) or deque(maxlen=self._limit)
        attempts.append(now)
        self._attempts[address] = attempts
        while len(self._attempts) > self._max_addresses or self._oldest() + self._window <= now:
            del self._attempts[next(iter(self._attempts))]

    def _oldest(self) -> float:
        """Return the last attempt of the address that tried first."""
        return next(iter(self._attempts.values()))[-1]


WRONG_KEYS: Final = web.AppKey("wrong_keys", WrongKeys)


def count_wrong_key(request: web.Request, what: str) -> int:
    """Count and log a wrong key in ``request``, and return 0.

    If its address has sent too many, return the seconds until the next one is counted. ``what`` is for the log.
    """
    remote = client_address(request, trust_proxy=request.app[GATEWAY].settings.trust_proxy)
    wrong_keys, network = request.app[WRONG_KEYS], client_network(remote)
    if wait := ceil(wrong_keys.wait(network)):
        request.app[FAILURE_LOGS].add_denial("wrong keys", f"refused {what} from {remote}: too many wrong keys")
        return wait
    wrong_keys.add(network)
    log.warning("refused %s from %s: the key is wrong", what, remote)
    return 0
