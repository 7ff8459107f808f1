"""The file of a Unix socket, before a server listens on it and after it has stopped."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path

from .listen_errors import StartError, system_reason


def remove_stale(path: Path) -> None:
    """Remove the socket that a crashed server left at ``path``.

    Raises ``StartError`` if a server listens there, or if the file is not a socket.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise StartError("This system has no Unix sockets; listen on a port instead.")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"{path} exists and is not a socket; choose another path with --unix-socket.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"roomcast cannot listen on {path}: {system_reason(error)}.") from error
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # a full backlog or a missing permission: a server listens there
    raise StartError(f"Another server listens on {path}; stop it, or choose another path with --unix-socket.")


def remove_own(path: Path, inode: int) -> None:
    """Remove the socket at ``path`` if it has this ``inode``. A server that started later may have replaced it."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()
