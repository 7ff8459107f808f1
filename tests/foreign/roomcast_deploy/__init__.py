"""Deployments: which version is live in which environment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from marshmallow import Schema, fields

from roomcast import Context, Plugin, Service, User, setting


@dataclass(frozen=True)
class DeploySettings:
    """The state at the start."""

    first_version: str = setting("Version of the environment build at the start", default="1.0")


deploy = Plugin("deploy", "Deployments and rollbacks", requires="roomcast>=0.1,<1", settings=DeploySettings)

#: The live version of each environment.
_live: dict[str, str] = {}


@deploy.event("deploy.finished", rooms=("environment",))
class Finished(Schema):
    """A version is live."""

    version = fields.String(required=True)


@deploy.room("environment")
async def on_the_team(ctx: Context, environment: str) -> bool:
    """Allow only members of an environment's team to join its room."""
    return ctx.claims_allow(f"environment:{environment}")


class Rollback(Schema):
    """The version to go back to."""

    version = fields.String(required=True)


class Nothing(Schema):
    """No data."""


@deploy.command("deploy.rollback", Rollback)
async def roll_back(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Go back to an earlier version and tell everyone in the room."""
    environment = ctx.joined().partition(":")[2]
    await ctx.publish(Finished, {"version": data["version"]})
    _live[environment] = data["version"]
    return {"version": data["version"]}


@deploy.command("deploy.verify", Nothing)
async def verify(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Return the live version; fail if there is none."""
    environment = ctx.joined().partition(":")[2]
    return {"version": _live[environment]}


@deploy.command("deploy.wait", Nothing)
async def wait(ctx: Context, data: dict[str, Any]) -> None:
    """Wait forever."""
    await asyncio.Event().wait()


@deploy.command("deploy.environments", Nothing, access="anyone")
async def environments(ctx: Context, data: dict[str, Any]) -> dict[str, Any]:
    """Return the environments that have a live version."""
    return {"environments": sorted(_live)}


@deploy.lifespan
async def remember(service: Service[DeploySettings]) -> AsyncIterator[None]:
    """Start with one version, and remove all at the end."""
    _live["build"] = service.settings.first_version
    service.state.pruned = 0
    yield
    _live.clear()


@deploy.route("GET", "/live/{environment}", auth="public")
async def live(service: Service, request: web.Request) -> web.StreamResponse:
    """Return the live version for a status page."""
    environment = request.match_info["environment"]
    return web.json_response({"environment": environment, "version": _live[environment]})


@deploy.every(3600, once_per_cluster=True)
async def prune(service: Service[DeploySettings]) -> None:
    """Count how often old versions were removed."""
    service.state.pruned += 1


@deploy.route("GET", "/mine", auth="user")
def mine(service: Service, request: web.Request, user: User) -> web.StreamResponse:
    """Return the environments that the user's token covers."""
    covered = [name for name in sorted(_live) if user.claims_allow(f"environment:{name}")]
    return web.json_response({"user_id": user.user_id, "environments": covered})
