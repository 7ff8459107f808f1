"""Runs a server: builds it from the settings, tunes the process, and stops it on a signal.

What keeps it from starting is a ``StartError``, whose message is a sentence for the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.metadata
import importlib.util
import logging
import os
import signal
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Final

from .. import registry
from ..broker.base import Broker
from ..broker.memory import MemoryBroker
from ..broker.redis.broker import RedisBroker
from ..broker.redis.urls import parse
from ..errors import RoomcastError, SettingsError
from ..gateway.gateway import Gateway
from ..registry import Registry
from ..settings import Settings
from ..web.ops.worker_metrics import Peers
from ..web.server import Address, Server
from ..web.server import serve as serve_until

log = logging.getLogger("roomcast")

#: Windows has no uvloop.
HAS_UVLOOP: Final = importlib.util.find_spec("uvloop") is not None

VERSION: Final = importlib.metadata.version("roomcast")

#: Fewer open files than this are soon used up: each connection is one.
FEW_FILES: Final = 10_000
MORE_FILES: Final = "raise the limit (ulimit -n, or LimitNOFILE in a systemd unit)"

#: Why a server cannot listen where it was told to.
_CANNOT_LISTEN: Final = {
    errno.EADDRINUSE: "something else listens there already; choose another port with --port",
    errno.EACCES: "this user is not allowed to; ports below 1024 need privileges, so choose another with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
}


class StartError(RoomcastError):
    """The server cannot start; the message says why and what to do."""


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop where there is one, else asyncio's own."""
    if HAS_UVLOOP:
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(
    settings: Settings,
    address: Address,
    ready: Callable[[Server], None],
    *,
    dev: bool = False,
    watch: Callable[[asyncio.Event], Awaitable[None]] | None = None,
    peers: Peers | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    ``watch`` is given the event of the stop as the loop begins, and may set it. ``ready`` is called once clients can
    connect; where that is is logged here, unless ``address`` brings its sockets: then who bound them does that.
    ``peers`` are for one of several workers.
    Raises ``PluginError`` or ``StartError``, and with Redis ``SettingsError`` if REDIS_URL is wrong, or
    ``Unavailable`` if nothing answers there within REDIS_WAIT.
    """
    plugins = registry.load()
    if address.unix_socket is not None and not address.sockets:
        make_way(address.unix_socket)
    files = raise_file_limit()
    if files is not None and files < FEW_FILES:
        log.warning("only %d files can be open at once, and each connection is one; %s", files, MORE_FILES)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            runner.run(_serve(settings, plugins, address, ready, dev, watch, peers))
        except RoomcastError:
            raise
        except Exception as error:
            if (sentence := why_not(address, error)) is None:
                log.exception("roomcast failed")
                sentence = "roomcast failed; the log above says why."
            raise StartError(sentence) from error


def broker_name(settings: Settings) -> str:
    """Return what to call the broker before others: Redis' URL without anything secret. Raises ``SettingsError``."""
    return "embedded" if settings.redis_url is None else parse(settings.redis_url).safe


def _broker(settings: Settings) -> Broker:
    if settings.redis_url is None:
        return MemoryBroker(settings.history_size, settings.history_ttl)
    return RedisBroker(
        parse(settings.redis_url, ca=settings.redis_ca),
        prefix=settings.redis_prefix,
        lease=settings.redis_lease,
        wait=settings.redis_wait,
        buffer=settings.redis_buffer,
        timeout=settings.redis_timeout,
        history_size=settings.history_size,
        history_ttl=settings.history_ttl,
    )


async def _serve(
    settings: Settings,
    plugins: Registry,
    address: Address,
    ready: Callable[[Server], None],
    dev: bool,
    watch: Callable[[asyncio.Event], Awaitable[None]] | None,
    peers: Peers | None,
) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    if watch is not None:
        await watch(stop)
    server = Server(Gateway(settings, plugins, _broker(settings)), address, dev=dev, peers=peers)

    own = None if address.sockets else address.unix_socket
    inode = 0

    def listening(server: Server) -> None:
        nonlocal inode
        inode = own.stat().st_ino if own is not None else 0
        if not address.sockets:
            announce(url(address, server.port), settings, plugins)
        _tune_gc()
        ready(server)

    try:
        await serve_until(server, stop, listening)
    finally:
        if own is not None:
            remove_socket(own, inode)
    log.info("roomcast has stopped")


def announce(where: str, settings: Settings, plugins: Registry, workers: int = 1) -> None:
    """Log that clients can connect to ``where``, and what to."""
    names = ", ".join(plugins.plugins)
    several = f"workers: {workers}; " if workers > 1 else ""
    broker = broker_name(settings)
    log.info("roomcast %s listens on %s (%sbroker: %s; plugins: %s)", VERSION, where, several, broker, names)


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on the first signal, and let the second do what it does by default: end the process."""
    loop = asyncio.get_running_loop()

    def first(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        log.info("%s: closing connections, then stopping; a second one stops at once", signal.Signals(number).name)
        loop.call_soon_threadsafe(stop.set)

    # Not loop.add_signal_handler, which Windows lacks.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, first)


def _tune_gc() -> None:
    """Keep the garbage collector from stopping the loop.

    By default a full collection comes by itself, and looks at all there is: with 5,000 connections it took 26 to 33 ms
    (Python 3.11), in which nobody is served. What the start has made is here to stay, so it is frozen and no longer
    looked at. Connections and events die by their counts, which leaves the collector little to find, so that it may
    come rarely; but not at 50,000 new objects only, where a young collection took 7 to 17 ms while a crowd came in,
    against 2 to 3 at 10,000, for the same total.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def raise_file_limit() -> int | None:
    """Raise the limit of open files as far as this process may, and return it; None is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS says unlimited, and takes no such limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return None if soft == resource.RLIM_INFINITY else soft


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the context to serve ``certificate`` (a chain, in PEM) with; raise ``SettingsError``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for path in (certificate, key):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {_strerror(error)}.") from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # or OpenSSL would ask the terminal
    except (ssl.SSLError, ValueError) as error:
        both = f"{certificate} and {key} are not a certificate chain and its key"
        alone = f"{certificate} is not a certificate chain with its key (give that with --tls-key if it is elsewhere)"
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{key} is the key of another certificate than {certificate}.") from error
        raise SettingsError(f"{both if key else alone}, both in PEM and the key without a passphrase.") from error
    return context


def make_way(path: Path) -> None:
    """Remove the socket that a crashed server left at ``path``; raise ``StartError`` if it is anything else."""
    if not hasattr(socket, "AF_UNIX"):
        raise StartError("This system has no Unix sockets; listen on a port instead.")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"{path} exists and is not a socket; choose another path with --unix-socket.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"roomcast cannot listen on {path}: {_strerror(error)}.") from error
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # too many wait, or we may not: somebody is there in any case
    raise StartError(f"Another server listens on {path}; stop it, or choose another path with --unix-socket.")


def remove_socket(path: Path, inode: int) -> None:
    """Remove the socket at ``path`` if it is the one with ``inode``, and not that of a server that came after us."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there; True as well if the trouble is another than a port in use."""
    try:
        family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as asyncio does; on Windows it would mean to share the port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
            probe.listen(1)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def url(address: Address, port: int) -> str:
    """Return where ``address`` is, with ``port`` as it was bound, as somebody on this machine would write it."""
    if address.unix_socket is not None:
        return f"unix:{address.unix_socket}"
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    return f"{'http' if address.tls is None else 'https'}://{host}:{port}"


def why_not(address: Address, error: Exception) -> str | None:
    """Return a sentence for what keeps a server from listening; None for any other failure."""
    if address.unix_socket is not None:
        ours = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS)
        if ours or "path too long" in str(error):
            reason = _strerror(error) if ours else "the path is too long for a socket"
            return f"roomcast cannot listen on {address.unix_socket}: {reason}."
    elif isinstance(error, socket.gaierror):
        return f"roomcast cannot listen on {address.host!r}: there is no such host; give an address with --host."
    elif isinstance(error, OSError) and error.errno in _CANNOT_LISTEN:
        return f"roomcast cannot listen on {address.host}, port {address.port}: {_CANNOT_LISTEN[error.errno]}."
    return None


def _strerror(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number is not None else str(error)
