"""``roomcast doctor``: looks at a deployment, before the night does."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import aiohttp
import orjson

from .. import fastpath, registry
from ..broker.redis.inspection import ServerInfo, inspect_servers, rehearse
from ..broker.redis.urls import Target as RedisTarget
from ..broker.redis.urls import parse
from ..errors import PluginError, RoomcastError, SettingsError, Unavailable
from ..settings import Settings, describe
from ..workers.listen_errors import is_port_free
from ..workers.process import HAS_UVLOOP, MIN_OPEN_FILES, RAISE_LIMIT, raise_file_limit
from . import tokens
from .websocket_client import Ended, Stream, Target, why

OK, WARN, FAIL = "OK", "WARN", "FAIL"

#: A key or secret with fewer different characters than this was made by hand, and can be guessed.
FEW_CHARACTERS: Final = 10
SHORT_KEY: Final = 20
#: A clock that shows an earlier time was never set: 2026-01-01, in Unix seconds.
EARLIEST: Final = 1767225600
#: Seconds by which two clocks may differ; tokens are not valid before they are made, by the clock of who made them.
SKEW: Final = 5.0

#: What Redis must be: GETDEL came with 6.2, the sharded announcements of a Cluster with 7.0.
OLDEST: Final = (6, 2)
OLDEST_CLUSTER: Final = (7, 0)
#: Fuller than this part of its memory, Redis is about to refuse.
FULL: Final = 0.8
#: 128 messages of 64 KiB travel together at most; who is cut off for fewer bytes is so at every burst.
SMALL_BACKLOG: Final = 8 * 2**20
_BACKLOG: Final = '"pubsub 32mb 8mb 60"'
#: How long Redis may take over what nodes do once, beyond the time to connect, in seconds.
REHEARSAL: Final = 5.0
#: What an ACL must give at least; roomcast.redis.keys has the names.
RIGHTS: Final = "~*{prefix}:* &*{prefix}:* +@all -@admin -@dangerous +info"

_NOWHERE: Final = logging.NullHandler()
_NAMES: Final = [variable.name for variable in describe()]


class Finding(NamedTuple):
    """One line of the diagnosis: OK, WARN or FAIL, and a sentence."""

    level: str
    sentence: str


async def examine(environ: Mapping[str, str], host: str, port: int, target: Target | None) -> AsyncIterator[Finding]:
    """Look at everything in turn: at the environment and the machine, then at the running server if one is given."""
    for finding in (*settings(environ), *misspelt(environ), *plugins(), *machine()):
        yield finding
    async for finding in redis(environ):
        yield finding
    if target is None:
        yield listening(host, port)
        return
    async for finding in running(target, environ):
        yield finding


def settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Say of every setting that is wrong what is wrong with it, then of good ones whether they are wise."""
    trial, problems = dict(environ), 0
    while True:
        try:
            read = Settings.from_env(trial)
            break
        except SettingsError as error:
            problems += 1
            yield Finding(FAIL, str(error))
            named = re.match("|".join(sorted(_NAMES, key=len, reverse=True)), str(error))
            if named is None:
                return
            # Go on as if it were right, to find the next one.
            trial[named[0]] = ""
            if named[0] == "WS_MAX_BUFFER":
                trial["WS_MAX_MESSAGE_SIZE"] = ""
            if named[0].startswith("JWT_"):
                trial |= {"JWT_PUBLIC_KEY": "", "JWT_ALGORITHMS": "", "JWT_SECRET": secrets.token_hex(32)}
    if not problems:
        yield Finding(OK, "The settings are valid.")
    yield from _key(read, environ)
    yield from _api(read)
    yield from _openness(read)


def _key(read: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    secret = read.jwt_secret
    if secret is None:
        yield Finding(OK, f"Tokens are verified with a public key ({', '.join(read.jwt_algorithms)}).")
    elif secret != environ.get("JWT_SECRET"):
        return  # it is a stand-in for one that was found wrong
    elif len(set(secret)) < FEW_CHARACTERS:
        yield Finding(WARN, "JWT_SECRET looks guessable; make one with `openssl rand -base64 48`.")
    else:
        yield Finding(OK, f"JWT_SECRET is {len(secret.encode())} bytes long ({', '.join(read.jwt_algorithms)}).")
    if not read.jwt_require_exp:
        yield Finding(WARN, "JWT_REQUIRE_EXP is false: a token that leaks is good for ever.")


def _api(read: Settings) -> Iterator[Finding]:
    key = read.api_key
    if key is None:
        yield Finding(WARN, "API_KEY is not set: the HTTP API is off, and backends cannot publish.")
    elif len(key) < SHORT_KEY or len(set(key)) < FEW_CHARACTERS:
        yield Finding(WARN, "API_KEY looks guessable; make one with `openssl rand -base64 30`.")
    else:
        yield Finding(OK, "API_KEY is set: backends can publish.")


def _openness(read: Settings) -> Iterator[Finding]:
    if read.room_access == "open":
        yield Finding(WARN, "ROOM_ACCESS is open: whoever has a token may enter every room.")
    if "*" in read.allowed_origins:
        yield Finding(WARN, "ALLOWED_ORIGINS has *: pages of every site may connect.")
    if read.redis_url is None:
        yield Finding(OK, "The embedded broker is used: one process, whose history ends with it.")


def misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of variables that are nearly settings: they have no effect, and nothing else would say so."""
    for name in sorted(environ.keys() - set(_NAMES)):
        if near := difflib.get_close_matches(name, _NAMES, 1, cutoff=0.87):
            yield Finding(WARN, f"{name} is not a setting and has no effect; is {near[0]} meant?")


def plugins() -> Iterator[Finding]:
    """Load the plugins, as the start would."""
    try:
        found = registry.load()
    except PluginError as error:
        yield Finding(FAIL, str(error))
    else:
        yield Finding(OK, f"The plugins load: {', '.join(found.plugins)}.")


def machine() -> Iterator[Finding]:
    """Look at open files, the event loop and the clock."""
    limit = raise_file_limit()
    if limit is not None and limit < MIN_OPEN_FILES:
        yield Finding(
            WARN,
            f"Only {limit} files can be open at once, and each connection is one; {RAISE_LIMIT}.",
        )
    else:
        yield Finding(OK, f"{'Any number of' if limit is None else limit} files can be open at once.")
    if not HAS_UVLOOP and os.name == "posix":
        yield Finding(WARN, "uvloop is not installed: the server does a fraction of what it could.")
    if fastpath.IS_NATIVE:
        rest = (
            "" if fastpath.uses_io_uring() else "; io_uring is not to be had here, which would save a tenth of the CPU"
        )
        yield Finding(OK, f"The inner loops are compiled{rest}.")
    elif os.name == "posix":
        yield Finding(
            WARN,
            "The inner loops are not compiled: messages cost a quarter more, up to a half. "
            "Install a C compiler, and roomcast anew.",
        )
    if time.time() < EARLIEST:
        yield Finding(FAIL, f"The clock says {time.strftime('%Y-%m-%d %H:%M')}: it is wrong, and tokens go by it.")
    else:
        yield Finding(OK, f"The clock says {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}.")


async def redis(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Look at the servers that REDIS_URL names, and do there once what nodes do."""
    own = {name: value for name, value in environ.items() if name.startswith("REDIS_")}
    try:
        read = Settings.from_env({**own, "JWT_SECRET": secrets.token_hex(32)})
    except SettingsError:
        return  # that was said before
    if read.redis_url is None:
        return
    logging.getLogger("roomcast.redis").addHandler(_NOWHERE)  # what goes wrong is found, not logged
    try:
        target = parse(read.redis_url, ca=read.redis_ca)
        if read.redis_ca is not None and not target.tls:
            yield Finding(WARN, "REDIS_CA has no effect, for REDIS_URL is without TLS, which rediss:// has.")
        for facts in await inspect_servers(target, read.redis_timeout):
            for finding in server(facts, target.kind == "cluster"):
                yield finding
    except (SettingsError, Unavailable) as error:
        yield Finding(FAIL, str(error))
    else:
        yield await _rehearsal(target, read)


async def _rehearsal(target: RedisTarget, read: Settings) -> Finding:
    try:
        async with asyncio.timeout(read.redis_wait + REHEARSAL):
            await rehearse(target, read.redis_prefix, read.redis_wait)
    except (TimeoutError, Unavailable) as error:
        rights = RIGHTS.format(prefix=read.redis_prefix)
        hint = f" Its user {target.username} needs these rights: {rights}." if target.username else ""
        return Finding(FAIL, f"{str(error) or 'Redis did not do in time what nodes need.'}{hint}")
    return Finding(OK, "Redis does all that nodes need.")


def server(facts: ServerInfo, is_cluster: bool) -> Iterator[Finding]:
    """Judge one server by what it says of itself."""
    name = f"{facts.product} at {facts.address}"
    version = ".".join(map(str, facts.version))
    oldest = OLDEST_CLUSTER if is_cluster else OLDEST
    if facts.version >= oldest:
        yield Finding(OK, f"{name} answers (version {version}).")
    else:
        wanted = ".".join(map(str, oldest))
        yield Finding(FAIL, f"{name} is too old: it is version {version}, and must be {wanted} or later.")
    yield from _memory(facts, name)
    if facts.remembers is False:
        yield Finding(
            WARN, f"{name} forgets at a restart which tokens were revoked; set appendonly yes, unless you revoke none."
        )
    if facts.backlog is None:
        yield Finding(OK, f"{name} does not tell its client-output-buffer-limit for pubsub; its default is good.")
    elif facts.backlog == 0:
        yield Finding(
            WARN, f"{name} keeps any amount for a node that hangs; set client-output-buffer-limit {_BACKLOG}."
        )
    elif facts.backlog < SMALL_BACKLOG:
        yield Finding(
            WARN,
            f"{name} cuts nodes off that have {facts.backlog} bytes to read, which a burst is; "
            f"set client-output-buffer-limit {_BACKLOG}.",
        )


def _memory(facts: ServerInfo, name: str) -> Iterator[Finding]:
    """Full, Redis refuses writes, which clients are told of; where it evicts, histories and slots vanish unseen."""
    if facts.policy and facts.policy != "noeviction":
        yield Finding(
            FAIL if facts.limit else WARN,
            f"{name} has maxmemory-policy {facts.policy}: when it is full it forgets rooms' histories and users' "
            "connections without a word; set it to noeviction, by which publishers get an error instead.",
        )
    limit = facts.limit or facts.machine
    if limit and facts.used > FULL * limit:
        yield Finding(WARN, f"{name} is nearly full: it uses {_mib(facts.used)} of {_mib(limit)}.")
    elif not facts.limit:
        yield Finding(WARN, f"{name} has no maxmemory: it takes all of the machine, until the kernel ends it; set one.")
    else:
        yield Finding(OK, f"{name} has room: it uses {_mib(facts.used)} of {_mib(limit)}.")


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def listening(host: str, port: int) -> Finding:
    """Try whether a server could listen there."""
    if is_port_free(host, port):
        return Finding(OK, f"Port {port} on {host} is free.")
    return Finding(FAIL, f"Port {port} on {host} is in use; to check the server that listens there, give its --url.")


async def running(target: Target, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Ask a running server whether it is ready, compare clocks, and open a WebSocket."""
    url = f"{target.http}/health/ready"
    try:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            text = (await response.text()).strip()[:200]
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        yield Finding(FAIL, f"{url} cannot be asked: {why(error)}.")
        return
    if response.status == 200:
        yield Finding(OK, f"{url} says that the server is ready.")
    else:
        yield Finding(FAIL, f"{url} answers with HTTP status {response.status}: {text}")
    if skew := _skew(response.headers.get("Date")):
        yield skew
    yield await _handshake(target, environ)


def _skew(date: str | None) -> Finding | None:
    try:
        seconds = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    if abs(seconds) > SKEW:
        return Finding(WARN, f"The server's clock differs from this one by {abs(seconds):.0f} s; set both by NTP.")
    return Finding(OK, "The server's clock agrees with this one.")


async def _handshake(target: Target, environ: Mapping[str, str]) -> Finding:
    """Connect as a user if a token can be made; otherwise without, which a server answers with 4401."""
    try:
        signing = tokens.signing_settings(environ)
        token = tokens.mint(signing, f"doctor-{secrets.token_hex(4)}", expires_in=60)
    except RoomcastError:
        token = None
    where = f"The WebSocket at {target.authority}"
    try:
        stream = await Stream.open(target, token)
        try:
            async with asyncio.timeout(10):
                welcome = orjson.loads(await stream.receive())
        finally:
            stream.close()
    except Ended as ended:
        if ended.end.code == 4401 and token is None:
            return Finding(OK, f"{where} answers (4401, since there is no JWT_SECRET here to make a token with).")
        if ended.end.code == 4401:
            return Finding(FAIL, f"{where} does not accept a token made with this JWT_SECRET; it must have another.")
        return Finding(FAIL, f"{where} does not open: {ended.end}.")
    except (RoomcastError, TimeoutError) as error:
        return Finding(FAIL, f"{where} does not open: {str(error) or 'no welcome in 10 s.'}")
    return Finding(OK if welcome.get("type") == "connected" else FAIL, f"{where} opens and greets.")
