"""Read certificates and keys again while the server runs, without closing connections; watch the certificate."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from ..errors import SettingsError
from ..web.server import Server
from .process_signals import Control

log = logging.getLogger("roomcast")

#: Reads the certificate and the key of --tls-cert and --tls-key. Raises ``SettingsError``.
LoadTls = Callable[[], ssl.SSLContext]

#: How often the expiry of the certificate in use is checked, in seconds.
_CHECK_INTERVAL: Final = 86400.0

#: The settings that are read again, in groups that are valid only together, each with a name for the log.
_RELOADED: Final = {
    "the keys of tokens": ("jwt_secret", "jwt_public_key", "jwt_algorithms"),
    "the API keys": ("api_key", "api_keys"),
    "the secrets of ROOM_ACCESS": ("room_access_secret",),
}


async def reload_repeatedly(control: Control, server: Server, load_tls: LoadTls | None) -> None:
    """Reload each time that ``control.reload`` is set."""
    while True:
        await control.reload.wait()
        control.reload.clear()
        try:
            await reload(server, load_tls)
        except Exception:
            log.exception("the reload failed")


async def reload(server: Server, load_tls: LoadTls | None) -> None:
    """Read the settings in ``_RELOADED`` and the files of TLS again. Log what has changed.

    A wrong value is logged, and the previous one stays in use. Files are read in a thread, because a file system can
    take any time.
    """
    gateway, changed = server.gateway, []
    for name, fields in _RELOADED.items():
        try:
            settings = await asyncio.to_thread(gateway.settings.read_again, fields)
        except SettingsError as error:
            _log_refusal(error)
            continue
        if settings != gateway.settings:
            gateway.use_keys(settings)
            changed.append(name)
    try:
        if await asyncio.to_thread(gateway.broker.reload_certificates):
            changed.append("the certificates for Redis")
    except SettingsError as error:
        _log_refusal(error)
    if load_tls is not None:
        try:
            server.use_certificate(await asyncio.to_thread(load_tls))
            changed.append("the TLS certificate")
        except SettingsError as error:
            _log_refusal(error)
    log.info("reloaded: %s", ", ".join(changed) or "nothing has changed")


async def watch_certificate(server: Server) -> None:
    """Warn every day of a TLS certificate in use that is about to expire, or has expired."""
    while True:
        if server.certificate is not None and (warning := server.certificate.warning()):
            log.warning("the TLS certificate in use %s; renew it, and send SIGHUP to this process", warning)
        await asyncio.sleep(_CHECK_INTERVAL)


def _log_refusal(error: SettingsError) -> None:
    log.error("reload: %s The previous value stays in use.", error)
