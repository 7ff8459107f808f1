"""Run one server process: build the server from the settings, tune the process, and stop or reload on a signal.

An error that prevents the start is a ``StartError``, or another ``RoomcastError``. Its message is a sentence for the
operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from .. import registry
from ..broker.base import Broker
from ..broker.redis.broker import RedisBroker
from ..broker.redis.options import RedisOptions
from ..broker.redis.tls import TlsFiles
from ..broker.redis.urls import Target, parse
from ..errors import RoomcastError, Unavailable
from ..gateway.broker_options import embedded_broker, history_limits
from ..gateway.gateway import Gateway
from ..registry import Registry
from ..settings import Settings
from ..web.capacity import capacity, open_file_limit
from ..web.ops.worker_metrics import Peers
from ..web.port import Address
from ..web.server import Server
from ..web.server import serve as serve_until
from ..web.tcp_sockets import bracketed
from . import unix_socket
from .listen_errors import StartError, explain_listen_error
from .process_end import EXECUTOR_THREADS, end_despite_threads, end_now, end_tasks
from .process_signals import Control, handle_signals
from .reload import LoadTls, reload_repeatedly, watch_certificate

log = logging.getLogger("roomcast")

#: Windows has no uvloop.
HAS_UVLOOP: Final = importlib.util.find_spec("uvloop") is not None

VERSION: Final = importlib.metadata.version("roomcast")

#: A lower limit of open files causes a warning, unless MAX_CONNECTIONS is set. Each connection is an open file.
MIN_OPEN_FILES: Final = 10_000


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop where it is installed, otherwise asyncio's own loop."""
    if HAS_UVLOOP:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        # With the name that asyncio gives to these threads.
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=EXECUTOR_THREADS))
        return loop
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_ignore_accept_errors)
    return loop


def _ignore_accept_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of asyncio's loop, unless no file descriptor was left for a connection.

    Python 3.11 logs that up to ``Port.ACCEPT_AT_ONCE`` times a second, ``ConnectionLimit`` once a minute.
    """
    if context.get("message") != "socket.accept() out of system resource":
        loop.default_exception_handler(context)


@end_despite_threads()
def run(
    settings: Settings,
    address: Address,
    on_ready: Callable[[Server], None],
    *,
    internal: Address | None = None,
    dev: bool = False,
    load_tls: LoadTls | None = None,
    on_start: Callable[[Control], Awaitable[None]] | None = None,
    peers: Peers | None = None,
) -> None:
    """Serve until a stop signal arrives, then drain. A second one ends the process immediately.

    ``internal`` is the address of the internal port, if there is one. ``load_tls`` reads the files of the TLS context
    in ``address`` again. ``on_start`` is called when the loop begins, with the object that controls the server.
    ``on_ready`` is called when clients can connect. ``peers`` gives access to the other workers, if this is one of
    several. Logs the addresses, unless ``address`` has sockets: the supervisor, which bound them, logs them then.

    Raises ``PluginError`` or ``StartError``, and ``SettingsError`` if an option of a room type is wrong. With Redis it
    raises ``SettingsError`` if REDIS_URL is wrong, and ``StartError`` if Redis does not answer within REDIS_WAIT.
    """
    plugins = registry.load(names=settings.plugins)
    plugins.room_options(settings)  # checks the variables, before the log and the files change
    plugins.plugin_settings(settings)
    if address.unix_socket is not None and not address.sockets:
        unix_socket.remove_stale(address.unix_socket)
    if warning := file_limit_warning(settings.max_connections, raise_file_limit(), 1 if peers is None else peers.total):
        log.warning("%s", warning)
    run_to_end(lambda: _serve(settings, plugins, address, internal, on_ready, dev, load_tls, on_start, peers))


def run_to_end(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``serve`` on a new loop, then end what is left on it. Raises ``RoomcastError`` if the server failed."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        failure: RoomcastError | None = None
        try:
            runner.run(serve())
        except Unavailable as error:
            failure = StartError(error.detail)
            failure.__cause__ = error
        except RoomcastError as error:
            failure = error
        except Exception as error:
            if (sentence := explain_listen_error(error)) is None:
                log.exception("roomcast failed")
                sentence = "roomcast failed; the log above says why."
            failure = StartError(sentence)
            failure.__cause__ = error
        if not runner.run(end_tasks()):
            if failure is not None:
                log.error("%s", failure)
            end_now(0 if failure is None else 1)
    if failure is not None:
        raise failure


def broker_name(settings: Settings) -> str:
    """Return a name for the broker without secrets: ``embedded`` or the URL of Redis. Raises ``SettingsError``."""
    return "embedded" if settings.redis_url is None else parse(settings.redis_url).safe


def redis_target(url: str, settings: Settings) -> Target:
    """Return the address of Redis and the files for TLS. Raises ``SettingsError`` if ``url`` is wrong."""
    files = TlsFiles(settings.redis_ca, settings.redis_cert, settings.redis_key, settings.redis_tls_verify)
    return parse(url, files)


def create_broker(settings: Settings, plugins: Registry) -> Broker:
    """Return the broker that the settings ask for, with the limits of the plugins' room types.

    Raises ``SettingsError`` if REDIS_URL or an option of a room type is wrong.
    """
    if settings.redis_url is None:
        return embedded_broker(settings, plugins)
    options = RedisOptions(
        prefix=settings.redis_prefix,
        lease=settings.redis_lease,
        wait=settings.redis_wait,
        buffer=settings.redis_buffer,
        timeout=settings.redis_timeout,
        history_size=settings.history_size,
        history_bytes=settings.history_bytes,
        history_ttl=settings.history_ttl,
        read_ttl=settings.read_ttl,
        last_seen_ttl=settings.last_seen_ttl,
        history_by_type=history_limits(plugins, settings),
        key_ttl=settings.idempotency_ttl,
    )
    return RedisBroker(redis_target(settings.redis_url, settings), options)


async def _serve(
    settings: Settings,
    plugins: Registry,
    address: Address,
    internal: Address | None,
    on_ready: Callable[[Server], None],
    dev: bool,
    load_tls: LoadTls | None,
    on_start: Callable[[Control], Awaitable[None]] | None,
    peers: Peers | None,
) -> None:
    control = Control()
    handle_signals(control, hangup_stops=dev)
    if on_start is not None:
        await on_start(control)
    gateway = Gateway(settings, plugins, create_broker(settings, plugins))
    server = Server(gateway, address, internal=internal, dev=dev, peers=peers)

    own_path = None if address.sockets else address.unix_socket
    inode = 0

    def listening(server: Server) -> None:
        nonlocal inode
        inode = own_path.stat().st_ino if own_path is not None else 0
        if not address.sockets:
            log_start([urls_of(port.address, port.number) for port in server.ports], settings, plugins)
        _tune_gc()
        on_ready(server)

    reloading = asyncio.create_task(reload_repeatedly(control, server, load_tls))
    watching = asyncio.create_task(watch_certificate(server))
    try:
        await serve_until(server, control.stop, listening, control.draining.set)
    finally:
        reloading.cancel()
        watching.cancel()
        if own_path is not None:
            unix_socket.remove_own(own_path, inode)
    log.info("roomcast has stopped")


def urls_of(address: Address, port: int) -> list[str]:
    """Return the URLs by which a client on this machine reaches ``address``. ``port`` is the port that was bound."""
    if address.unix_socket is not None:
        return [f"unix:{address.unix_socket}"]
    scheme = "http" if address.tls is None else "https"
    loopback = {"::": "::1", "0.0.0.0": "127.0.0.1"}  # noqa: S104
    return [f"{scheme}://{bracketed(loopback.get(host, host))}:{port}" for host in address.hosts]


def log_start(ports: Sequence[Sequence[str]], settings: Settings, plugins: Registry, workers: int = 1) -> None:
    """Log that clients can connect, with the broker and the plugins.

    ``ports`` are the URLs of the public port, and those of the internal port if there is one.
    """
    public, *internal = (" and ".join(urls) for urls in ports)
    details = {
        "internal": "".join(internal),
        "workers": str(workers) if workers > 1 else "",
        "broker": broker_name(settings),
        "plugins": ", ".join(plugins.plugins),
    }
    shown = "; ".join(f"{name}: {value}" for name, value in details.items() if value)
    log.info("roomcast %s listens on %s (%s)", VERSION, public, shown)
    set_here = [name for one in plugins.room_options(settings).values() for name in one.variables]
    if set_here:
        texts = (f"{name}={settings.room_variables[name]}" for name in set_here)
        log.info("options of room types: %s", ", ".join(texts))


def _tune_gc() -> None:
    """Keep the garbage collector from stopping the event loop.

    By default a full collection starts by itself and visits every object. With 5,000 connections it takes 26 to 33 ms
    (Python 3.11), in which no client is served. The objects that exist after the start are permanent, so they are
    frozen and no longer visited. Reference counts free connections and events, so collections find little and can be
    rare. A threshold of 50,000 new objects is too high: a young collection then takes 7 to 17 ms while many clients
    connect, against 2 to 3 ms at 10,000, for the same total.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def raise_file_limit() -> int | None:
    """Raise this process's limit of open files to the highest value allowed. Return it; None means no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS reports an unlimited hard limit, and refuses it as the soft limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return open_file_limit()


def file_limit_warning(max_connections: int, open_files: int | None, processes: int = 1) -> str | None:
    """Return a sentence if ``open_files`` is a low limit for each of ``processes``, otherwise None.

    ``max_connections`` is the setting.
    """
    if open_files is None:
        return None
    possible = processes * capacity(0, open_files, processes).connections
    raise_limit = "raise the limit (ulimit -n, or LimitNOFILE in a systemd unit)"
    if max_connections > possible:
        where = "" if processes == 1 else f" in each of {processes} workers"
        return (
            f"MAX_CONNECTIONS is {max_connections}, but {open_files} open files{where} are enough for {possible}, "
            f"which is the limit now; {raise_limit}"
        )
    if not max_connections and open_files < MIN_OPEN_FILES:
        return f"only {open_files} files can be open at once, which is enough for {possible} connections; {raise_limit}"
    return None
