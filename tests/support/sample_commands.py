"""A plugin with commands that wait, fail or return invalid results."""

from __future__ import annotations

import asyncio
from typing import Any

from marshmallow import Schema, fields

from roomcast import Context, Plugin, Refused


class Anything(Schema):
    """Any value of ``n``."""

    n = fields.Raw()


class SampleCommands:
    """A plugin with commands that wait, fail or return invalid results. All are for anyone.

    ``started`` has the field ``n`` of each command that was started. ``gate`` lets the command ``slow`` continue.
    """

    def __init__(self) -> None:
        self.plugin = Plugin("sample")
        self.gate = asyncio.Event()
        self.started: list[Any] = []
        self.plugin.command("slow", Anything, access="anyone")(self.slow)
        self.plugin.command("quick", Anything, access="anyone")(self.quick)
        self.plugin.command("boom", Anything, access="anyone")(self.boom)
        self.plugin.command("no", Anything, access="anyone")(self.no)
        self.plugin.command("odd", Anything, access="anyone")(self.odd)

    async def slow(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Wait for the gate."""
        self.started.append(data.get("n"))
        await self.gate.wait()
        return {"n": data.get("n")}

    async def quick(self, ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
        """Return at once."""
        self.started.append(data.get("n"))
        return {"n": data.get("n")}

    async def boom(self, ctx: Context, data: dict[str, Any]) -> None:
        """Fail."""
        self.started.append(data.get("n"))
        raise ZeroDivisionError("the secret of the plugin")

    async def no(self, ctx: Context, data: dict[str, Any]) -> None:
        """Refuse with a message and fields that cannot be encoded as JSON."""
        self.started.append(data.get("n"))
        raise Refused("too_early", "Not before noon\ud800.", {"n": [object()]})

    async def odd(self, ctx: Context, data: dict[str, Any]) -> Any:
        """Return a result that is not JSON."""
        self.started.append(data.get("n"))
        return {"n": object()}
