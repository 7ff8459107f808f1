"""Reasons why a server cannot start or listen, as sentences for the operator."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from ..errors import RoomcastError
from ..web.port import ListenError
from ..web.tcp_sockets import BindError, bind, bracketed

#: Reasons with the option or setting for the port or the host.
_TCP_REASONS: Final = {
    errno.EADDRINUSE: "something else listens there already; choose another port with {port}",
    errno.EACCES: "this user is not allowed to; ports below 1024 need privileges, so choose another with {port}",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with {host}",
    errno.EAFNOSUPPORT: "this machine has no addresses of this kind; choose another with {host}",
}
_UNIX_ERRORS: Final = (errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS)


class StartError(RoomcastError):
    """The server cannot start. The message is a sentence with the reason and what to do."""


def explain_listen_error(error: Exception) -> str | None:
    """Return a sentence if ``error`` is a ``ListenError`` with a reason that operators understand, otherwise None."""
    if not isinstance(error, ListenError):
        return None
    address, error = error.address, error.cause
    if address.unix_socket is not None:
        is_known = isinstance(error, OSError) and error.errno in _UNIX_ERRORS
        if is_known or "path too long" in str(error):
            reason = system_reason(error) if is_known else "the path is too long for a socket"
            return f"roomcast cannot listen on {address.unix_socket}: {reason}."
        return None
    host = error.host if isinstance(error, BindError) else " or ".join(address.hosts)
    options = {"host": "--host", "port": "--port"}
    if address.is_internal:
        options = dict.fromkeys(options, "INTERNAL_ADDRESS")
    if isinstance(error, BindError) and error.is_unknown_host:
        reason = "there is no such host; give an address with {host}"
        return f"roomcast cannot listen on {host!r}: {reason.format(**options)}."
    if isinstance(error, BindError) or (isinstance(error, OSError) and error.errno in _TCP_REASONS):
        reason = _TCP_REASONS.get(error.errno or 0) or system_reason(error)
        return f"roomcast cannot listen on {bracketed(host)}, port {address.port}: {reason.format(**options)}."
    return None


def system_reason(error: Exception) -> str:
    """Return the operating system's words for ``error``, without its number."""
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number is not None else str(error)


def is_port_free(hosts: Sequence[str], port: int) -> bool:
    """Return True if the port is not in use. Other obstacles are reported when the server listens."""
    try:
        for sock in bind(hosts, port):
            with sock:
                sock.listen(1)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
