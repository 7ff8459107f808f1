"""A plugin whose rule waits."""

from __future__ import annotations

import asyncio

from roomcast import Context, Plugin


def waiting_rule() -> tuple[Plugin, asyncio.Event, list[str]]:
    """Return a plugin whose rule waits for an event, the event, and a list of the joins that the rule decides about."""
    plugin = Plugin("waiting")
    gate, evaluations = asyncio.Event(), []

    @plugin.room("slow")
    async def rule(ctx: Context, entity: str) -> bool:
        evaluations.append(entity)
        await gate.wait()
        return True

    return plugin, gate, evaluations
