"""Check the settings, the plugins and the machine on which a server is to run."""

from __future__ import annotations

import difflib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ... import fastpath, registry
from ...api_keys import UNNAMED
from ...certificates import Validity
from ...errors import PluginError, SettingsError
from ...plugin_settings import PluginSetting
from ...registry import Registry
from ...room_variables import settings_for_plugins, variable_names
from ...secret_files import FILE_SUFFIX
from ...setting_fields import Environ
from ...setting_rules import split_address
from ...settings import Settings, describe, file_variables
from ...specs.publishable import check_schemas
from ...web.port import Address
from ...web.tcp_sockets import bracketed
from ...workers.listen_errors import is_port_free
from ...workers.process import HAS_UVLOOP, file_limit_warning, raise_file_limit
from ..serve import create_tls_context, internal_address
from .finding import FAIL, OK, WARN, Finding

#: A key or secret with fewer different characters was typed by hand and can be guessed.
MIN_CHARACTERS: Final = 10
MIN_KEY_LENGTH: Final = 20
#: A clock that shows an earlier time was never set: 2026-01-01, in Unix seconds.
EARLIEST: Final = 1767225600

_NAMES: Final = [variable.name for variable in describe()]
#: The variables that determine the keys of tokens, besides JWT_SECRET.
_KEY_VARIABLES: Final = ("JWT_SECRET_FILE", "JWT_PUBLIC_KEY", "JWT_PUBLIC_KEY_FILE", "JWT_ALGORITHMS")


def check_settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report each setting that is wrong. If the settings can be used, report the ones that are risky."""
    trial, problems = dict(environ), 0
    while True:
        try:
            settings = Settings.from_env(trial)
            break
        except SettingsError as error:
            problems += 1
            yield Finding(FAIL, str(error))
            named = re.match("|".join(sorted(_NAMES, key=len, reverse=True)), str(error))
            if named is None:
                return
            # Replace it by its default, to find the next problem.
            trial |= {named[0]: "", named[0] + FILE_SUFFIX: ""}
            if named[0] == "WS_MAX_BUFFER":
                trial["WS_MAX_MESSAGE_SIZE"] = ""
            if named[0].startswith("JWT_"):
                trial |= dict.fromkeys(_KEY_VARIABLES, "") | {"JWT_SECRET": secrets.token_hex(32)}
    if not problems:
        yield Finding(OK, "The settings are valid.")
    if trial.get("JWT_SECRET") == environ.get("JWT_SECRET"):  # otherwise it was wrong, and was reported
        yield from _check_keys(settings)
    if not settings.jwt_require_exp:
        yield Finding(WARN, "JWT_REQUIRE_EXP is false: a leaked token without an expiry stays valid permanently.")
    yield from _check_api_key(settings)
    yield from _check_openness(settings)
    yield from _check_room_access(settings)


def _check_keys(settings: Settings) -> Iterator[Finding]:
    keys, algorithms = settings.jwt_keys, ", ".join(settings.jwt_algorithms)
    others = f"; {len(keys) - 1} more for tokens that were signed with another key" if len(keys) > 1 else ""
    if settings.jwt_secret is None:
        yield Finding(OK, f"Tokens are verified with a public key ({algorithms}{others}).")
    elif any(len(set(secret)) < MIN_CHARACTERS for secret in keys):
        yield Finding(WARN, "JWT_SECRET is easy to guess; generate one with `openssl rand -base64 48`.")
    else:
        yield Finding(OK, f"JWT_SECRET is {len(keys[0].encode())} bytes long ({algorithms}{others}).")


def _check_api_key(settings: Settings) -> Iterator[Finding]:
    if not settings.http_keys:
        yield Finding(WARN, "API_KEY is not set: the HTTP API is off, and backends cannot publish.")
    for key in settings.http_keys:
        name = key.name if key.name == UNNAMED else f"The key {key.name} in API_KEYS"
        if any(len(secret) < MIN_KEY_LENGTH or len(set(secret)) < MIN_CHARACTERS for secret in key.secrets):
            yield Finding(WARN, f"{name} is easy to guess; generate one with `openssl rand -base64 30`.")
        elif key.name == UNNAMED:
            count = f" ({len(key.secrets)} keys)" if len(key.secrets) > 1 else ""
            yield Finding(OK, f"API_KEY is set{count}: backends can publish.")
        else:
            rooms = "all rooms" if key.rooms is None else ", ".join(key.rooms)
            yield Finding(OK, f"{name} may {' and '.join(key.scopes)}: {rooms}.")


def _check_openness(settings: Settings) -> Iterator[Finding]:
    if settings.room_access == "open":
        yield Finding(WARN, "ROOM_ACCESS is open: every user may join every room.")
    if "*" in settings.allowed_origins:
        yield Finding(WARN, "ALLOWED_ORIGINS contains *: pages of every site may connect.")
    elif "null" in settings.allowed_origins:
        yield Finding(WARN, "ALLOWED_ORIGINS contains null: every site can embed a sandboxed page, which may connect.")
    if settings.redis_url is None:
        yield Finding(OK, "REDIS_URL is not set: the embedded broker serves one process, and keeps no history on disk.")


def _check_room_access(settings: Settings) -> Iterator[Finding]:
    has_url = settings.room_access not in ("claims", "open")
    if has_url and not settings.room_access_secret:
        yield Finding(
            WARN,
            "ROOM_ACCESS_SECRET is not set: the URL in ROOM_ACCESS cannot verify that this server sends the requests.",
        )
    elif settings.room_access_secret and not has_url:
        yield Finding(WARN, f"ROOM_ACCESS_SECRET has no effect, because ROOM_ACCESS is {settings.room_access}.")


def check_names(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of variables whose names are similar to settings. They have no effect, and nothing else reports them."""
    yield from _similar_names(environ.keys() - {*_NAMES, *file_variables()}, _NAMES)


def _similar_names(unknown: Collection[str], known: Sequence[str]) -> Iterator[Finding]:
    for name in sorted(unknown):
        if similar := difflib.get_close_matches(name, known, 1, cutoff=0.87):
            yield Finding(WARN, f"{name} is not a setting and has no effect. Did you mean {similar[0]}?")


def check_plugins(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Load the plugins as a server does, and check the variables for their room types."""
    try:
        names = Settings.from_env({"PLUGINS": environ.get("PLUGINS", "")}, jwt_secret=secrets.token_hex(32)).plugins
        loaded = registry.load(names=names)
        check_schemas(loaded)
    except (PluginError, SettingsError) as error:
        yield Finding(FAIL, str(error))
        return
    yield Finding(OK, f"{'These' if names else 'All'} plugins load: {', '.join(loaded.plugins)}.")
    yield from check_room_types(loaded, environ)
    yield from check_plugin_settings(loaded, environ)


def check_room_types(plugins: Registry, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report each variable for a room type that is wrong, and those that are in effect."""
    trial = dict(environ)
    while True:
        try:
            settings = settings_for_plugins(trial)
            options = plugins.room_options(settings)
            break
        except SettingsError as error:
            variable = str(error).partition(" ")[0]
            if variable not in _NAMES and variable not in file_variables():  # ``check_settings`` reports the others
                yield Finding(FAIL, str(error))
            if not trial.get(variable) and not trial.get(variable + FILE_SUFFIX):
                return
            trial |= {variable: "", variable + FILE_SUFFIX: ""}  # to find the next problem
    used = [name for one in options.values() for name in one.variables]
    if used:
        yield Finding(OK, f"Options of room types: {', '.join(f'{name}={trial[name]}' for name in used)}.")
    yield from _similar_names(settings.room_variables.keys() - used, [*variable_names(options)])


def check_plugin_settings(plugins: Registry, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Report each setting of a plugin that is wrong or risky, and the values of all others; secrets are stars."""
    env = Environ(environ)
    for loaded in plugins:
        declared, plugin = loaded.plugin.settings, loaded.plugin.name
        if declared is None:
            continue
        shown = []
        for one in declared.settings:
            try:
                shown.append(_shown(one, one.read(env, plugin)))
            except SettingsError as error:
                yield Finding(FAIL, str(error))
        if len(shown) == len(declared.settings):
            warnings: list[str] = []
            try:
                declared.read(environ, warnings.append)
            except SettingsError as error:
                yield Finding(FAIL, str(error))
            else:
                yield Finding(OK, f"Settings of plugin {plugin}: {', '.join(shown)}.")
                yield from (Finding(WARN, sentence) for sentence in warnings)
        known = [variable for one in declared.settings for variable in one.variables]
        unknown = [name for name in environ if name.startswith(f"{plugin.upper()}_") and name not in known]
        yield from _similar_names(unknown, known)


def _shown(setting: PluginSetting, value: Any) -> str:
    """Return a setting and its value, as an operator would write them."""
    if value in (None, ()):
        return f"{setting.variable} (not set)"
    if isinstance(value, tuple) and not setting.rule.is_secret:
        return f"{setting.variable}={','.join(value)}"
    return f"{setting.variable}={setting.rule.show(value)}"


def check_machine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the limit of open files, the event loop, the C code and the clock."""
    limit = raise_file_limit()
    wanted = environ.get("MAX_CONNECTIONS", "").strip()
    if warning := file_limit_warning(int(wanted) if wanted.isdecimal() else 0, limit):
        yield Finding(WARN, f"{warning[0].upper()}{warning[1:]}.")
    else:
        yield Finding(OK, f"{'Any number of' if limit is None else limit} files can be open at once.")
    if not HAS_UVLOOP and os.name == "posix":
        yield Finding(WARN, "uvloop is not installed. Without it the server handles a fraction of the messages.")
    if fastpath.IS_NATIVE:
        hint = "" if fastpath.uses_io_uring() else " io_uring is not available; it would save a tenth of the CPU time."
        yield Finding(OK, f"The C code is compiled and in use.{hint}")
    elif os.name == "posix":
        yield Finding(
            WARN,
            "The C code is not in use, so a message costs 25 to 50 % more CPU time. Install a C compiler, then "
            "reinstall roomcast.",
        )
    if time.time() < EARLIEST:
        shown = time.strftime("%Y-%m-%d %H:%M")
        yield Finding(FAIL, f"The clock shows {shown}, which is wrong. The expiry of tokens depends on it.")
    else:
        yield Finding(OK, f"The clock shows {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}.")


def check_certificate(certificate: Path | None, key: Path | None) -> Iterator[Finding]:
    """Check the files of --tls-cert and --tls-key, if they are given, as ``serve`` does."""
    if certificate is None:
        return
    try:
        validity = create_tls_context(certificate, key).validity
    except SettingsError as error:
        yield Finding(FAIL, str(error))
    else:
        if validity is not None:
            yield certificate_finding(f"The certificate {certificate}", validity)


def certificate_finding(name: str, validity: Validity) -> Finding:
    """Return the finding about a certificate that is valid now."""
    if warning := validity.warning():
        return Finding(WARN, f"{name} {warning}; renew it.")
    return Finding(OK, f"{name} is valid until {validity.end:%Y-%m-%d}.")


def check_ports(environ: Mapping[str, str], hosts: Sequence[str], port: int) -> Iterator[Finding]:
    """Check whether a server could listen on the port, and on the internal one."""
    address = Address(tuple(hosts), port)
    yield _check_port(address)
    value = environ.get("INTERNAL_ADDRESS", "").strip()
    try:
        host_and_port = split_address(value)
    except SettingsError:
        return  # it is not set, or ``check_settings`` reports it
    try:
        yield _check_port(internal_address(host_and_port, address))
    except SettingsError as error:
        yield Finding(FAIL, str(error))


def _check_port(address: Address) -> Finding:
    where = f"Port {address.port} on {' and '.join(map(bracketed, address.hosts))}"
    if address.is_internal:
        where += " (INTERNAL_ADDRESS)"
    if is_port_free(address.hosts, address.port):
        return Finding(OK, f"{where} is free.")
    return Finding(FAIL, f"{where} is in use. To check the server that listens there, give its --url.")
