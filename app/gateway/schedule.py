"""Run the periodic functions of plugins: on each node, or on one node of the cluster in each interval."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Final

from ..errors import Unavailable
from ..failure_log import EXCEPTION_LINES, FailureLog
from ..plugin_schedule import PeriodicFunction
from ..registry import LoadedPlugin
from ..service import Service
from .node import Node
from .plugin_tasks import PluginTasks
from .plugin_times import PluginTimes

log = logging.getLogger("roomcast")

#: The longest pause before the broker is asked for a turn again after a failure, in seconds.
_RETRY_PAUSE: Final = 1.0


class Schedule:
    """The periodic functions of all plugins on one node. Each has a task, so there are never two runs at once."""

    def __init__(self, node: Node, tasks: PluginTasks, services: Mapping[str, Service], times: PluginTimes) -> None:
        self._loop: Final = node.loop
        self._broker: Final = node.broker
        self._tasks: Final = tasks
        self._services: Final = services
        self._times: Final = times
        self._failures: Final = FailureLog(log, EXCEPTION_LINES)
        self._refusals: Final = FailureLog(log)

    def start(self, plugins: Iterable[LoadedPlugin]) -> None:
        """Begin to run the functions."""
        for loaded in plugins:
            for one in loaded.plugin.periodic:
                plugin = loaded.plugin.name
                self._times.of(plugin, one.name)  # the metrics have all functions from the start
                run = self._run_in_cluster if one.once_per_cluster else self._run_on_node
                self._tasks.spawn(plugin, run(plugin, one), one.name)

    async def _run_on_node(self, plugin: str, one: PeriodicFunction) -> None:
        while True:
            begun = self._loop.time()
            await self._run(plugin, one)
            await asyncio.sleep(max(begun + one.seconds - self._loop.time(), 0.0))

    async def _run_in_cluster(self, plugin: str, one: PeriodicFunction) -> None:
        """Ask for the turn whenever the current one ends, and run the function if this node gets it."""
        turn = f"{plugin}/{one.name}"
        while True:
            holder = secrets.token_hex(8)
            try:
                wait = await self._broker.take_turn(turn, holder, one.seconds)
            except Unavailable as error:
                what = f"Function {one.name!r} of plugin {plugin!r} does not run now: {error.detail}"
                self._refusals.add(turn, what)
                wait = min(_RETRY_PAUSE, one.seconds)
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            keeping = self._loop.create_task(self._keep_turn(turn, holder, one))
            try:
                await self._run(plugin, one)
            finally:
                keeping.cancel()

    async def _keep_turn(self, turn: str, holder: str, one: PeriodicFunction) -> None:
        """Extend the turn while the function runs, so that no other node begins."""
        while True:
            await asyncio.sleep(one.seconds / 2)
            try:
                wait = await self._broker.take_turn(turn, holder, one.seconds)
            except Unavailable as error:
                log.debug("The turn of %s cannot be extended now: %s", turn, error.detail)
                continue
            if wait > 0:
                log.warning("Another node runs %s at the same time: this one was cut off from Redis for too long", turn)
                return

    async def _run(self, plugin: str, one: PeriodicFunction) -> None:
        """Run the function once, and log its failure."""
        begun = perf_counter()
        try:
            await one.function(self._services[plugin])
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._log_failure(plugin, one, error)
        except Exception as error:
            self._log_failure(plugin, one, error)
        finally:
            self._times.of(plugin, one.name).add(perf_counter() - begun)

    def _log_failure(self, plugin: str, one: PeriodicFunction, error: BaseException) -> None:
        key = f"{plugin}/{one.name} {error.__class__.__name__}"
        text = f"Function {one.name!r} of plugin {plugin!r} failed; it runs again after its interval"
        self._failures.add(key, text, error)
        self._times.of(plugin, one.name).errors += 1
