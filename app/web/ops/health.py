"""``/health/live`` and ``/health/ready``, for those who restart servers and those who send them clients. No key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ...errors import Unavailable
from ..app_keys import GATEWAY
from ..json_errors import answer

if TYPE_CHECKING:
    from ...broker.base import Broker

#: How long the broker may take to answer, in seconds. One that hangs raises nothing by itself.
PING_TIMEOUT: Final = 2.0


async def live(request: web.Request) -> web.StreamResponse:
    """Answer 200 for as long as the event loop turns; who gets no answer should restart the process."""
    return answer({"live": True})


async def ready(request: web.Request) -> web.StreamResponse:
    """Answer 200 if new clients are welcome here, else 503, with what each part says of itself.

    The plugins are started before the port is bound, so they are ready whenever this is asked.
    """
    gateway = request.app[GATEWAY]
    parts = {
        "broker": await _broker(gateway.broker),
        "connections": "draining: the server is about to stop" if gateway.is_draining else "ok",
        "plugins": "ok",
    }
    is_ready = all(state == "ok" for state in parts.values())
    return answer({"ready": is_ready, "parts": parts}, status=200 if is_ready else 503)


async def _broker(broker: Broker) -> str:
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await broker.ping()
    except Unavailable as error:
        return str(error)
    except TimeoutError:
        return f"The broker gave no answer in {PING_TIMEOUT:g} s."
    return "ok"
