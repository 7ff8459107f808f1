"""The signals of the operating system that a server process handles.

SIGTERM, SIGINT and SIGQUIT stop it, SIGHUP lets it read certificates and keys again, SIGUSR1 and SIGUSR2 do nothing.
Without handlers, each of them would end the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from types import FrameType
from typing import Final, NoReturn

log = logging.getLogger("roomcast")


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals that this system has. Windows has few."""
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


STOP_SIGNALS: Final = _existing("SIGTERM", "SIGINT", "SIGQUIT")
HANGUP: Final = _existing("SIGHUP")
IGNORED_SIGNALS: Final = _existing("SIGUSR1", "SIGUSR2")


class Control:
    """What a process was told to do, by a signal or by its supervisor."""

    def __init__(self) -> None:
        #: Set once the process has to stop.
        self.stop: Final = asyncio.Event()
        #: Set when the process has to read its files again, and cleared when it does.
        self.reload: Final = asyncio.Event()
        #: Set by the process itself when it is about to accept no more connections.
        self.draining: Final = asyncio.Event()


def handle_signals(control: Control, *, hangup_stops: bool) -> None:
    """Handle the signals of this process. A second stop signal ends the process at once.

    The handlers are not those of the loop, so that a second signal also ends a process whose event loop is blocked.
    They only pass the signal on, because a signal can arrive in the middle of any call, such as one that writes a log
    line.

    ``hangup_stops`` is for ``roomcast dev``: closing its terminal sends SIGHUP, and must not leave a server behind.
    """
    loop = asyncio.get_running_loop()
    stop_signals, reload_signals = STOP_SIGNALS, HANGUP
    if hangup_stops:
        stop_signals, reload_signals = (*STOP_SIGNALS, *(each for each in HANGUP if not _is_ignored(each))), ()

    def begin_stop(number: int) -> None:
        log_stop(number)
        control.stop.set()

    def on_stop(number: int, frame: FrameType | None) -> None:
        for each in stop_signals:
            signal.signal(each, signal.SIG_DFL if os.getpid() != 1 else _end)
        try:
            loop.call_soon_threadsafe(begin_stop, number)
        except RuntimeError:  # the loop is closed, and the process is about to end
            end_by(number)

    def on_reload(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(control.reload.set)

    def on_ignored(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(log_ignored, number)

    # Windows has no loop.add_signal_handler.
    for each in stop_signals:
        signal.signal(each, on_stop)
    for each in reload_signals:
        signal.signal(each, on_reload)
    for each in IGNORED_SIGNALS:
        if signal.getsignal(each) is signal.SIG_DFL:  # otherwise a plugin handles it
            signal.signal(each, on_ignored)


def _is_ignored(number: signal.Signals) -> bool:
    """Return True if the parent process has let this one ignore the signal, as nohup does."""
    return signal.getsignal(number) is signal.SIG_IGN


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End this process at once. The kernel has no default actions for the first process of a container."""
    os._exit(128 + number)


def end_by(number: int) -> NoReturn:
    """End this process at once, as the default action of the signal ``number`` does."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    _end(number, None)


def log_stop(number: int) -> None:
    """Log that the signal ``number`` stops the server."""
    log.info("%s: closing connections, then stopping; a second signal stops at once", signal.Signals(number).name)


def log_ignored(number: int) -> None:
    """Log that the signal ``number`` does nothing."""
    log.info("%s: ignored", signal.Signals(number).name)
