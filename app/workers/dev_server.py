"""Serve plugins under development, and start again with their new code when a file changes: ``roomcast dev --reload``.

The process stays the same, so that secrets, the port and, on the embedded broker, the histories do. Clients are closed
with 1012, connect again and resume. If the new code cannot be loaded, the server goes on with the code before.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Final

from ..broker.base import Broker
from ..broker.reloadable import ReloadableBroker
from ..errors import PluginError, RoomcastError
from ..gateway.broker_options import embedded_broker, history_limits
from ..gateway.gateway import Gateway
from ..registry import Registry
from ..settings import Settings
from ..web.pages.dev_problems import problems
from ..web.port import Address
from ..web.server import Server
from ..web.server import serve as serve_until
from .plugin_source import PluginSource
from .process import create_broker, log_start, run_to_end, urls_of
from .process_end import end_despite_threads
from .process_signals import Control, handle_signals

log = logging.getLogger("roomcast.dev")


@end_despite_threads()
def run(
    settings: Settings, address: Address, source: PluginSource, on_ready: Callable[[Server], None], *, reload: bool
) -> None:
    """Serve until a stop signal arrives. With ``reload``, load the plugins of ``source`` again when their files change.

    ``on_ready`` is called once, when clients can connect for the first time. Raises the errors of ``process.run``.
    Without ``reload`` these include ``PluginError`` if a plugin of ``source`` cannot be loaded.
    """
    plugins = None if reload else source.load()
    run_to_end(lambda: DevServer(settings, address, source, on_ready).run(plugins))


class DevServer:
    """Runs one server after the other, each with the plugins as they are then."""

    def __init__(
        self, settings: Settings, address: Address, source: PluginSource, on_ready: Callable[[Server], None]
    ) -> None:
        self._settings: Final = settings
        self._address = address
        self._source: Final = source
        self._on_ready: Final = on_ready
        self._broker: Broker | None = None
        #: The plugins of the next server.
        self._plugins: Registry
        #: Set when the running server has to end, because the process stops or the plugins have changed.
        self._end = asyncio.Event()
        self._starts = 0
        #: True if the plugins of the source are left out.
        self._is_without = False

    async def run(self, plugins: Registry | None) -> None:
        """Serve ``plugins`` until a stop signal arrives; without them, those of the source, and watch their files."""
        control = Control()
        handle_signals(control, hangup_stops=True)
        watching = asyncio.create_task(self._watch(control)) if plugins is None else None
        self._plugins = plugins or self._load() or self._load_without()
        stopping = asyncio.create_task(self._end_at(control.stop))
        try:
            while not control.stop.is_set():
                self._end.clear()
                await self._serve(self._plugins)
        finally:
            stopping.cancel()
            if watching is not None:
                watching.cancel()
        log.info("roomcast has stopped")

    async def _end_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end.set()

    async def _watch(self, control: Control) -> None:
        """Load the plugins after each change of their files. If that works, end the running server."""
        from watchfiles import PythonFilter, awatch  # here, because it takes 50 ms and only --reload needs it

        async for changes in awatch(*self._source.paths, watch_filter=PythonFilter(), stop_event=control.stop):
            log.info("changed: %s", ", ".join(sorted({path for _, path in changes})))
            if (plugins := self._load()) is not None:
                self._plugins = plugins
                self._end.set()

    def _load(self) -> Registry | None:
        """Return the new plugins, or None after the problem was reported."""
        try:
            plugins = self._source.load()
            plugins.room_options(self._settings)  # raises if the variables do not fit the room types
            plugins.plugin_settings(self._settings)
        except RoomcastError as error:
            self._report(describe_problem(error))
            return None
        problems.plugin_problem = None
        self._is_without = False
        return plugins

    def _load_without(self) -> Registry:
        self._is_without = True
        return self._source.load_without()

    def _report(self, text: str) -> None:
        problems.plugin_problem = text
        log.error("The plugin cannot be loaded; the next change is tried.\n%s", text)

    async def _serve(self, plugins: Registry) -> None:
        """Run one server until ``_end`` is set."""
        server = Server(Gateway(self._settings, plugins, self._broker_for(plugins)), self._address, dev=True)
        try:
            await serve_until(server, self._end, self._listening)
        except Exception as error:
            if server.ports or self._is_without:
                raise
            # A lifespan of the plugin failed. The server runs without the plugin until the next change.
            self._report(describe_problem(error))
            self._plugins = self._load_without()

    def _broker_for(self, plugins: Registry) -> Broker:
        """Return the broker of the next server, which has the histories of the one before."""
        if self._settings.redis_url is not None:
            return create_broker(self._settings, plugins)
        if isinstance(self._broker, ReloadableBroker):
            self._broker.use_limits(history_limits(plugins, self._settings))
        else:
            self._broker = embedded_broker(self._settings, plugins, ReloadableBroker)
        return self._broker

    def _listening(self, server: Server) -> None:
        """Keep the port for the next server, and tell the console to offer its new forms."""
        self._address = self._address._replace(port=server.port)
        self._starts += 1
        problems.loads = self._starts
        if self._starts == 1:
            log_start(
                [urls_of(port.address, port.number) for port in server.ports], self._settings, server.gateway.registry
            )
            self._on_ready(server)
        else:
            log.info("loaded again: %s", ", ".join(server.gateway.registry.plugins))


def describe_problem(error: BaseException) -> str:
    """Return the sentence of ``error`` and the traceback of its cause, without the frames of roomcast and importlib."""
    cause = error.__cause__ if isinstance(error, PluginError) else error
    if cause is None:
        return str(error)
    stack = traceback.TracebackException.from_exception(cause)
    own = [frame for frame in stack.stack if not _is_of_loader(frame.filename)]
    stack.stack = traceback.StackSummary.from_list(own)
    stack.__cause__ = stack.__context__ = None
    return "".join(stack.format()).rstrip()


def _is_of_loader(file: str) -> bool:
    return "importlib" in file or file.endswith(("/roomcast/registry.py", "/app/registry.py"))
