"""The keys under which handlers find shared objects in the aiohttp application."""

from __future__ import annotations

from enum import Enum
from typing import Final

from aiohttp import web

from ..gateway.gateway import Gateway

GATEWAY: Final = web.AppKey("gateway", Gateway)
#: True for ``roomcast dev``: the console needs no login and creates tokens.
DEV: Final = web.AppKey("dev", bool)


class Part(Enum):
    """The part of the server that an application serves."""

    #: Everything, because there is no internal port.
    ALL = "all"
    #: Only what users need, because the internal port has everything.
    PUBLIC = "public"
    INTERNAL = "internal"


PART: Final = web.AppKey("part", Part)
