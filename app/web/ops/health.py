"""Health checks: a process that fails ``/health/live`` needs a restart, ``/health/ready`` is for load balancers.

Everyone may send them. The state of the broker names servers, so only requests with the API key or at the internal port
get it; the log has it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from ...broker.base import Broker
from ...errors import BrokerUnavailable, Unavailable
from ..api.auth import may_see_details
from ..app_state import GATEWAY, PART, Part
from ..failure_logs import FAILURE_LOGS
from ..json_errors import json_response

#: How long the broker may take to answer, in seconds. A broker that hangs raises nothing by itself.
PING_TIMEOUT: Final = 2.0
#: The state of a broker that does not work, for requests without the API key.
BROKER_DOWN: Final = "The broker does not work; the server's log says why."


async def live(request: web.Request) -> web.StreamResponse:
    """Answer 200. Without an answer, the event loop is blocked, and the process should be restarted."""
    return json_response({"live": True})


async def ready(request: web.Request) -> web.StreamResponse:
    """Answer 200 if this node accepts clients, else 503, with the state of each part except at the public port.

    The plugins are started before the port is bound, so they are always ready here.
    """
    gateway = request.app[GATEWAY]
    parts = {
        "broker": await _broker_state(request, gateway.broker),
        "connections": "draining: the server is about to stop" if gateway.is_stopping else "ok",
        "plugins": "ok",
    }
    is_ready = all(state == "ok" for state in parts.values())
    details = {} if request.app[PART] is Part.PUBLIC else {"parts": parts}
    return json_response({"ready": is_ready, **details}, status=200 if is_ready else 503)


async def _broker_state(request: web.Request, broker: Broker) -> str:
    """Return "ok", or what is wrong with the broker. The log has the reason."""
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await broker.ping()
    except Unavailable as error:
        problem = error
    except TimeoutError:
        problem = BrokerUnavailable(f"The broker gave no answer in {PING_TIMEOUT:g} s.")
    else:
        return "ok"
    request.app[FAILURE_LOGS].add(request, problem)
    part = request.app[PART]
    may_see = part is Part.INTERNAL or (part is Part.ALL and may_see_details(request))
    return problem.detail if may_see else BROKER_DOWN
