"""Send a batch of events to the receiver, signed as Standard Webhooks 1.0 describes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
from standardwebhooks import Webhook
from yarl import URL

#: How much of the body of a response is read, in bytes, and for how many seconds. A longer one closes the connection.
_MAX_BODY: Final = 4096
_BODY_TIMEOUT: Final = 1.0
#: The longest pause that a receiver can request with Retry-After, in seconds.
_MAX_RETRY_AFTER: Final = 60.0


class Outcome(NamedTuple):
    """What became of a request: the ``status``, or None without a response; and the ``reason`` of a failure."""

    status: int | None
    reason: str = ""
    retry_after: float = 0.0

    @property
    def is_accepted(self) -> bool:
        """True if the receiver has the events."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """True if the receiver wants no events any more."""
        return self.status == 410


class Sender:
    """Sends to ``url`` with a signature for each of ``secrets``. A request may take ``timeout`` seconds."""

    def __init__(self, url: str, secrets: Sequence[str], timeout: float) -> None:
        self._url: Final = URL(url)
        self._signers: Final = [Webhook(secret) for secret in secrets]
        self._timeout: Final = timeout
        self._session: Final = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )

    async def close(self) -> None:
        """Close the connections. Requests that are running fail."""
        await self._session.close()

    async def send(self, events: Sequence[dict[str, Any]]) -> Outcome:
        """Send ``events`` in one request. The same events have the same ``webhook-id``, on any node."""
        body = orjson.dumps(events).decode()
        id = "msg_" + sha256("\n".join(event["id"] for event in events).encode()).hexdigest()[:32]
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"roomcast/{version('roomcast')}",
            "webhook-id": id,
            "webhook-timestamp": str(int(now.timestamp())),
            # One signature for each secret, so that a receiver accepts the request while its secret is being replaced.
            "webhook-signature": " ".join(signer.sign(id, now, body) for signer in self._signers),
        }
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(body, headers)
        except TimeoutError:
            return Outcome(None, f"it did not answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a name that IDNA refuses is a ValueError
            return Outcome(None, _reason(error))

    async def _post(self, body: str, headers: dict[str, str]) -> Outcome:
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
            # The status is the answer. A short body is read to its end, so that aiohttp keeps the connection.
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_BODY_TIMEOUT):
                    size = 0
                    while size < _MAX_BODY and (chunk := await response.content.readany()):
                        size += len(chunk)
            wait = response.headers.get("Retry-After", "")
            retry_after = min(float(wait), _MAX_RETRY_AFTER) if wait.isascii() and wait.isdecimal() else 0.0
            return Outcome(response.status, f"it answered {response.status}", retry_after)


def _reason(error: Exception) -> str:
    """Return why there is no answer, for the log and for dead letters.

    Messages of other errors contain the URL, which may have a password, or what the receiver has sent.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(error, aiohttp.ClientConnectorError | OSError) and str(error):
        return str(error)
    return f"there was no valid answer ({type(error).__name__})"
