"""Deployments: what was shipped, and where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from marshmallow import Schema, fields

from roomcast import Context, Plugin, Refused, Service

deploy = Plugin("deploy", "Deployments and rollbacks")

#: Environment to the version that is live there, while the gateway runs.
_live: dict[str, str] = {}


@deploy.event("deploy.finished", rooms=("environment",))
class Finished(Schema):
    """A version is live."""

    version = fields.String(required=True)


@deploy.room("environment")
async def on_the_team(ctx: Context, environment: str) -> bool:
    """Only members of an environment's team enter its room."""
    return ctx.claims_allow(f"environment:{environment}")


class Rollback(Schema):
    """Which version to go back to."""

    version = fields.String(required=True)


class Nothing(Schema):
    """No data."""


@deploy.command("deploy.rollback", Rollback)
async def roll_back(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Ask for the version before; everyone in the room sees who did."""
    if not ctx.in_room or ctx.room is None:
        raise Refused("not_joined", "Join the environment's room first.")
    await ctx.publish(Finished, {"version": data["version"]})
    _live[ctx.room.partition(":")[2]] = data["version"]
    return {"version": data["version"]}


@deploy.command("deploy.verify", Nothing)
async def verify(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Say which version is live; fails where none was ever deployed."""
    environment = ctx.joined().partition(":")[2]
    return {"version": _live[environment]}


@deploy.command("deploy.wait", Nothing)
async def wait(ctx: Context, data: dict[str, Any]) -> None:
    """Wait for a deployment that nobody has begun."""
    await asyncio.Event().wait()


@deploy.lifespan
async def remember(service: Service) -> AsyncIterator[None]:
    """Begin with the version that was shipped with the gateway, and forget all when it stops."""
    _live["build"] = "1.0"
    yield
    _live.clear()


@deploy.route("GET", "/live/{environment}")
async def live(service: Service, request: web.Request) -> web.StreamResponse:
    """Which version is live, for a status page."""
    environment = request.match_info["environment"]
    return web.json_response({"environment": environment, "version": _live[environment]})
