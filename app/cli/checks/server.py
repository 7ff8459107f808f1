"""Check a running server: whether it is ready, its clock, its certificate, and its WebSocket."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
import orjson

from ...certificates import Validity
from ...errors import RoomcastError, SettingsError
from ...settings import Settings
from .. import tokens
from ..target import Target, connection_error
from ..websocket_client import Ended, Stream
from .environment import certificate_finding
from .finding import FAIL, OK, WARN, Finding

#: How far two clocks may differ, in seconds. A token is not valid before its ``iat``, by the clock of its signer.
MAX_SKEW: Final = 5.0
#: How long an answer may take, in seconds.
TIMEOUT: Final = 10.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=TIMEOUT)
#: How much of a response is shown, in characters.
MAX_SHOWN: Final = 500


async def check_running(target: Target, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Request ``/health/ready``, compare the clocks, check the certificate and the internal port, open a WebSocket.

    With the API key in ``environ``, the response has the reason why a server is not ready.
    """
    url = f"{target.http}/health/ready"
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(url, headers=_with_key(environ)) as response,
        ):
            text = (await response.text()).strip()[:MAX_SHOWN]
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        yield Finding(FAIL, f"{url} cannot be reached: {connection_error(error)}.")
        return
    if response.status == 200:
        yield Finding(OK, f"{url} reports that the server is ready.")
    else:
        yield Finding(FAIL, f"{url} answers with HTTP status {response.status}: {text}")
    if finding := _check_clock(response.headers.get("Date")):
        yield finding
    if target.tls:
        yield await _check_certificate(target)
    if environ.get("INTERNAL_ADDRESS", "").strip():
        yield await _check_exposure(target)
    yield await _check_websocket(target, environ)


def _with_key(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the first API key; nothing without one, or if another check reports that it is wrong."""
    try:
        keys = Settings.from_env(environ).http_keys
    except SettingsError:
        return {}
    return {"Authorization": f"Bearer {next(iter(keys)).secrets[0]}"} if keys else {}


async def _check_exposure(target: Target) -> Finding:
    """Check that the metrics are not on the public port."""
    url = f"{target.http}/metrics"
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as response:
            status = response.status
    except (TimeoutError, aiohttp.ClientError) as error:
        return Finding(FAIL, f"{url} cannot be reached: {connection_error(error)}.")
    if status == 404:
        return Finding(OK, f"{url} does not exist, because INTERNAL_ADDRESS is set.")
    return Finding(
        WARN,
        f"{url} exists, although INTERNAL_ADDRESS is set here. Restart the server with this setting, unless this is "
        "the URL of its internal port.",
    )


def _check_clock(date: str | None) -> Finding | None:
    """Compare the Date header of a response with this clock. Return None if there is no valid date."""
    try:
        seconds = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    if abs(seconds) > MAX_SKEW:
        return Finding(WARN, f"The server's clock differs from this one by {abs(seconds):.0f} s; set both by NTP.")
    return Finding(OK, "The server's clock agrees with this one.")


async def _check_certificate(target: Target) -> Finding:
    """Check how long the server's certificate, which this machine trusts, is valid."""
    name = f"The certificate of {target.authority}"
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(target.host, target.port, ssl=ssl.create_default_context())
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
    except (TimeoutError, OSError) as error:
        return Finding(FAIL, f"{name} cannot be read: {connection_error(error)}.")
    return certificate_finding(name, Validity.of(certificate))


async def _check_websocket(target: Target, environ: Mapping[str, str]) -> Finding:
    """Connect as a user if a token can be made. Otherwise connect without one, which the server refuses with 4401."""
    try:
        signing = tokens.signing_settings(environ)
        token = tokens.mint(signing, f"doctor-{secrets.token_hex(4)}", expires_in=60)
    except RoomcastError:
        token = None
    name = f"The WebSocket at {target.authority}"
    try:
        stream = await Stream.open(target, token)
        try:
            async with asyncio.timeout(TIMEOUT):
                frame = orjson.loads(await stream.receive())
        finally:
            stream.close()
    except Ended as ended:
        if ended.end.code == 4401 and token is None:
            return Finding(OK, f"{name} answers (with 4401, because there is no JWT_SECRET here to make a token with).")
        if ended.end.code == 4401:
            return Finding(FAIL, f"{name} does not accept a token made with this JWT_SECRET; the server has another.")
        return Finding(FAIL, f"{name} does not open: {ended.end}.")
    except (RoomcastError, TimeoutError) as error:
        return Finding(FAIL, f"{name} does not open: {str(error) or f'no frame in {TIMEOUT:.0f} s.'}")
    if frame.get("type") != "connected":
        return Finding(FAIL, f"{name} opens, but its first frame is not `connected`.")
    return Finding(OK, f"{name} opens and sends `connected`.")
