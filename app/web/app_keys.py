"""Where the parts of the web side find the gateway and each other in the aiohttp application."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..gateway.gateway import Gateway

GATEWAY: Final = web.AppKey("gateway", Gateway)
#: Whether this is ``roomcast dev``: the console is open and hands out tokens.
DEV: Final = web.AppKey("dev", bool)
