"""Ask the URL in ``ROOM_ACCESS`` whether a user may join a room.

The URL receives ``{"user": {"user_id", "username"}, "room"}`` by POST. It responds with 200 (yes) or 403 (no). Every
other response, and none, is a failure: neither yes nor no. ``docs/room-access.md`` describes the request for the
authors of such a URL.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import aiohttp
import orjson
from standardwebhooks import Webhook
from yarl import URL

from ..errors import Unavailable
from ..failure_log import FailureLog
from ..settings import Settings
from .identity import Identity

logger = logging.getLogger("roomcast.access")

#: The amount of a response's body that is read, in bytes.
_MAX_BODY: Final = 1024


class AccessUrl:
    """Sends the requests. Call ``start`` on the event loop before use, and ``close`` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._url: Final = URL(settings.room_access)
        self._timeout: Final = settings.room_access_timeout
        self.use_keys(settings)
        self._session: aiohttp.ClientSession | None = None
        self.failures: Final = FailureLog(logger)

    def use_keys(self, settings: Settings) -> None:
        """Sign requests with the secrets in ``settings`` from now on."""
        self._signers = [Webhook(secret) for secret in settings.room_access_secret]

    async def start(self) -> None:
        """Create the HTTP client."""
        self._session = aiohttp.ClientSession(
            # The caller limits the number of requests. A limit here would count against the timeout.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections. Requests that are running fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, identity: Identity, room: str) -> bool:
        """Return the decision of the URL. Raises ``Unavailable`` if there is none within ``ROOM_ACCESS_TIMEOUT``."""
        user = {"user_id": identity.user_id, "username": identity.username}
        body = orjson.dumps({"user": user, "room": room}).decode()
        headers = {"Content-Type": "application/json", **self._signature(body)}
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(body, headers)
        except TimeoutError:
            raise self.failed(room, f"it did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a name that IDNA refuses is a ValueError
            raise self.failed(room, str(error) or type(error).__name__) from None
        if status not in (200, 403):
            raise self.failed(room, f"it answered {status}, neither 200 nor 403")
        return status == 200

    def _signature(self, body: str) -> dict[str, str]:
        """Return the headers by which the URL verifies that this server sent ``body`` (Standard Webhooks 1.0)."""
        if not self._signers:
            return {}
        id, now = f"msg_{uuid4().hex}", datetime.now(UTC)
        return {
            "webhook-id": id,
            "webhook-timestamp": str(int(now.timestamp())),
            # One signature for each secret, so that the URL accepts the request while its secret is being replaced.
            "webhook-signature": " ".join(signer.sign(id, now, body) for signer in self._signers),
        }

    async def _post(self, body: str, headers: dict[str, str]) -> int:
        """Send the request and return the status of the response."""
        try:
            return await self._send(body, headers)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # The server may have closed an idle connection while the request was written to it. The request can be
            # repeated, because it changes nothing. aiohttp does this only for methods such as GET.
            return await self._send(body, headers)

    async def _send(self, body: str, headers: dict[str, str]) -> int:
        if self._session is None:
            raise aiohttp.ClientConnectionError("roomcast is shutting down")
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
            # The body is ignored. A short one is read to its end, because a response that is cut off is no decision,
            # and so that aiohttp keeps the connection.
            size = 0
            while size < _MAX_BODY and (chunk := await response.content.readany()):
                size += len(chunk)
            return response.status

    def failed(self, room: str, reason: str) -> Unavailable:
        """Log a failed check for the operator, and return the error for the client, which must not contain the URL."""
        self.failures.add("url", f"ROOM_ACCESS cannot be asked at {self._url.origin()}: {reason}")
        return Unavailable(f"The access check of {room} failed.")
