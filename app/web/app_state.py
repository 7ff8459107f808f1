"""The keys under which handlers find shared objects in the aiohttp application."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..gateway.gateway import Gateway

GATEWAY: Final = web.AppKey("gateway", Gateway)
#: True for ``roomcast dev``: the console needs no login and creates tokens.
DEV: Final = web.AppKey("dev", bool)
