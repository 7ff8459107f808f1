"""Settings: environment variables, read at start into one frozen object. Secrets may be in files.

The fields of ``Settings`` are the only list of all variables, with defaults, units, descriptions and bounds. The name
of a field is the name of its variable in lower case. An empty variable counts as not set. ``Settings.from_env`` reads
the variables. ``describe`` lists them; a test compares ``docs/configuration.md`` with it. Further variables are those
of the options of room types, ``ROOM_<TYPE>_<OPTION>``, and those of plugins; see ``room_variables`` and
``plugin_settings``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .api_keys import ApiKeys, read_api_keys
from .errors import SettingsError
from .secret_files import FILE_SUFFIX
from .setting_fields import Environ, Variable, describe_field, read_field, rule_of, setting, variables
from .setting_rules import (
    check_buffer,
    check_lease,
    check_redis_prefix,
    check_room_access,
    check_room_access_secrets,
    normalize_origin,
    normalize_public_url,
    split_address,
    trusted_proxies,
)
from .signing_keys import accepted_algorithms, read_public_key, split_public_keys, split_secrets

#: The default of ``WS_BYTE_RATE``, in bytes per second.
_BYTE_RATE: Final = 524288


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """All settings, checked. Raises ``SettingsError`` with a sentence for the operator if one is wrong.

    Four fields are normalized. ``jwt_algorithms`` defaults to the algorithms of the key, and ``ws_byte_rate`` to 0 if
    ``ws_message_rate`` is 0. ``jwt_public_key`` is PEM text, also if a path was given. ``allowed_origins`` are written
    as browsers do: lower case, without a default port.
    """

    redis_url: str | None = setting(
        None,
        "str",
        "URL of the Redis that the nodes share; without it, one process uses the embedded broker",
        is_secret=True,
    )
    redis_prefix: str = setting(
        "roomcast", "str", "Prefix of every key in Redis; deployments that share a Redis need different prefixes"
    )
    redis_ca: str | None = setting(
        None,
        "str",
        "Path of a PEM file with the authorities to trust for rediss://; by default the system's authorities",
    )
    redis_cert: str | None = setting(
        None, "str", "Path of a PEM file with the client certificate for rediss://, if Redis requires one"
    )
    redis_key: str | None = setting(
        None, "str", "Path of a PEM file with the key of REDIS_CERT, if that does not contain it"
    )
    redis_tls_verify: bool = setting(
        True, "bool", "Verify the certificate of Redis; false accepts any, so others in the network can pose as Redis"
    )
    redis_lease: float = setting(
        30.0,
        "float",
        "How long the connections and members of a dead node still count; at least 1.5 times REDIS_TIMEOUT",
        unit="s",
        above=0,
    )
    redis_wait: float = setting(
        5.0, "float", "How long the start and each publish wait for an unreachable Redis", unit="s", above=0
    )
    redis_buffer: int = setting(
        16777216,
        "int",
        "Maximum total size of the publishes that wait for Redis; further publishes fail at once",
        unit="bytes",
        minimum=1,
    )
    redis_timeout: float = setting(
        3.0,
        "float",
        "How long Redis may be silent before its connection counts as dead and is reopened",
        unit="s",
        above=0,
    )
    max_connections: int = setting(
        0,
        "int",
        "Maximum number of WebSockets of one server, over all its workers; 0 means as many as open files allow",
        minimum=0,
    )
    max_unauthenticated_per_address: int = setting(
        1000,
        "int",
        "Maximum number of sockets of one address before authentication; never more than a quarter of all",
        minimum=1,
    )
    max_connections_per_user: int = setting(
        5, "int", "Maximum number of concurrent connections of one user, over all nodes", minimum=1
    )
    max_rooms_per_connection: int = setting(
        200, "int", "Maximum number of rooms that one connection may be in", minimum=1
    )
    ws_heartbeat_interval: float = setting(
        30.0,
        "float",
        "Silence after which the server pings a client; after two intervals it drops the connection",
        unit="s",
        above=0,
    )
    ws_max_message_size: int = setting(
        131072,
        "int",
        "Maximum size of a message from a client; a larger message closes the connection with 1009",
        unit="bytes",
        minimum=1,
    )
    ws_max_buffer: int = setting(
        1048576,
        "int",
        "Maximum amount of unsent data per connection; a connection with more is closed with 1013",
        unit="bytes",
        minimum=1,
    )
    ws_message_rate: int = setting(
        100,
        "int",
        "Message rate that one client may sustain, with bursts of five times as many; 0 means no limit",
        unit="per second",
        minimum=0,
    )
    ws_byte_rate: int = setting(
        None,
        "int",
        "Rate of bytes that one user may sustain on all connections to a node, with bursts of one second; messages and "
        "the events that they publish count; 0 means no limit; by default 524288, or 0 if WS_MESSAGE_RATE is 0",
        minimum=0,
    )
    jwt_secret: str | None = setting(
        None,
        "str",
        "Secret that tokens are signed with, at least 32 bytes, or several; set either this or JWT_PUBLIC_KEY",
        is_secret=True,
    )
    jwt_public_key: str | None = setting(
        None, "str", "Public keys that verify tokens: PEM text, or the path of a PEM file", is_secret=True
    )
    jwt_algorithms: tuple[str, ...] = setting(
        (),
        "list",
        "Accepted signature algorithms, separated by commas; by default HS256 for a secret, else the key's own",
    )
    jwt_audience: str | None = setting(None, "str", "Audience that a token's aud must be or contain")
    jwt_issuer: str | None = setting(None, "str", "Issuer that a token's iss must equal")
    jwt_leeway: float = setting(
        0.0, "float", "Clock difference that is tolerated for exp and nbf, and for iat if above 60", unit="s", minimum=0
    )
    jwt_require_exp: bool = setting(True, "bool", "Refuse tokens that have no expiry time (exp)")
    api_key: str | None = setting(
        None, "str", "Bearer key of the HTTP API, or several; without it and API_KEYS the API is off", is_secret=True
    )
    api_keys: str | None = setting(
        None,
        "str",
        "Further keys of the HTTP API as JSON, each with a name, scopes and optionally rooms",
        is_secret=True,
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "list", "Origins whose pages may connect besides the server's own, separated by commas; * means all"
    )
    room_access: str = setting(
        "claims",
        "str",
        "Default rule for joining a room: claims (the token's rooms), open (everyone), or an https:// URL to ask",
    )
    room_access_secret: tuple[str, ...] = setting(
        (),
        "list",
        "Secrets that sign the requests to the URL in ROOM_ACCESS (whsec_…), separated by commas",
        is_secret=True,
    )
    room_access_timeout: float = setting(
        2.0,
        "float",
        "How long the URL in ROOM_ACCESS may take to answer; after that the join fails and can be repeated",
        unit="s",
        above=0,
    )
    room_access_cache: float = setting(
        10.0, "float", "How long an answer of the URL in ROOM_ACCESS is cached; 0 asks every time", unit="s", minimum=0
    )
    forbidden_join: str = setting(
        "close",
        "str",
        "What follows the error of a forbidden join: close the connection with 4403, or keep it",
        choices=("close", "keep"),
    )
    announce_max: int = setting(1000, "int", "Number of users in a room above which joins are not announced", minimum=0)
    presence_grace: float = setting(
        3.0,
        "float",
        "How long a user whose connection was lost may take to return without being announced; 0 announces at once",
        unit="s",
        minimum=0,
    )
    last_seen_ttl: float = setting(
        30 * 86400.0,
        "float",
        "How long the time at which a user was last online is kept; 0 keeps no times of users",
        unit="s",
        minimum=0,
    )
    read_ttl: float = setting(
        30 * 86400.0,
        "float",
        "How long a user's marks, up to where rooms are read, are kept after the last one was set",
        unit="s",
        above=0,
        maximum=3650 * 86400.0,
    )
    history_size: int = setting(500, "int", "Number of events kept per room", minimum=0)
    history_bytes: int = setting(
        2097152, "int", "Bytes of events kept per room; beyond it the older half is dropped", minimum=65536
    )
    history_ttl: float = setting(3600.0, "float", "How long an event is kept", unit="s", above=0)
    idempotency_ttl: float = setting(
        300.0, "float", "How long a command or publish may be repeated with its key", unit="s", minimum=300
    )
    handshake_timeout: float = setting(
        10.0,
        "float",
        "How long a request may take to arrive, a handshake to wait for Redis, and an HTTP response to stay unread",
        unit="s",
        above=0,
    )
    handler_timeout: float = setting(
        10.0,
        "float",
        "How long a plugin may take to handle a command; after that the command is cancelled",
        unit="s",
        above=0,
    )
    lifespan_timeout: float = setting(
        30.0,
        "float",
        "How long each lifespan of a plugin may take to start, and all of them together to stop",
        unit="s",
        above=0,
    )
    ticket_ttl: float = setting(30.0, "float", "How long a ticket is valid", unit="s", above=0)
    revocation_ttl: float = setting(
        30 * 86400.0,
        "float",
        "How long a revocation is kept; at least the lifetime of the longest-lived token",
        unit="s",
        above=0,
    )
    http_keepalive: float = setting(
        75.0,
        "float",
        "How long an idle HTTP connection stays open; more than the idle timeout of a proxy in front",
        unit="s",
        above=0,
    )
    shutdown_delay: float = setting(
        0.0,
        "float",
        "How long a server that stops still serves, while /health/ready says no; then it closes its connections",
        unit="s",
        minimum=0,
    )
    drain_seconds: float = setting(
        10.0, "float", "Time over which the connections are closed at shutdown", unit="s", minimum=0
    )
    internal_address: str | None = setting(
        None,
        "str",
        "Address (host:port) of an internal port for the HTTP API, the console, metrics, details of health and the "
        "documents; by default they are on the same port as the WebSockets",
    )
    console: bool = setting(False, "bool", "Serve the debug console at /console, protected by API_KEY")
    log_format: str = setting("text", "str", "Format of the log lines: text or json", choices=("text", "json"))
    log_level: str = setting(
        "info",
        "str",
        "Lowest level that is logged: debug, info, warning or error",
        choices=("debug", "info", "warning", "error"),
    )
    public_url: str | None = setting(
        None,
        "str",
        "URL at which clients reach this server, for its documents, such as https://example.com/rt; by default the "
        "address that the client used",
    )
    trust_proxy: str = setting(
        "false",
        "str",
        "The proxies that report client addresses in X-Forwarded-For or Forwarded: their number (true means 1), or "
        "their networks, separated by commas",
    )
    plugins: tuple[str, ...] = setting(
        (), "list", "Plugins to load, in this order, separated by commas; by default all that are installed"
    )
    #: The variables that are not settings. ``plugin_settings`` reads those of the plugins.
    plugin_variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: The variables of options of room types, with their texts. ``room_variables`` checks them, because only the
    #: plugins know the room types.
    room_variables: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.ws_byte_rate is None:
            object.__setattr__(self, "ws_byte_rate", _BYTE_RATE if self.ws_message_rate else 0)
        for item in variables(Settings):
            rule = rule_of(item)
            if not rule.allows(value := getattr(self, item.name)):
                raise rule.refusal(item.name.upper(), value)
        check_redis_prefix(self.redis_prefix)
        if self.redis_key is not None and self.redis_cert is None:
            raise SettingsError("REDIS_KEY is set without REDIS_CERT; give the certificate of this key as well.")
        check_buffer(self.ws_max_buffer, self.ws_max_message_size)
        check_lease(self.redis_lease, self.redis_timeout)
        read_api_keys(self.api_key, self.api_keys)
        check_room_access(self.room_access)
        if self.internal_address is not None:
            split_address(self.internal_address)
        if self.public_url is not None:
            object.__setattr__(self, "public_url", normalize_public_url(self.public_url))
        trusted_proxies(self.trust_proxy)
        check_room_access_secrets(self.room_access_secret)
        object.__setattr__(self, "allowed_origins", tuple(map(normalize_origin, self.allowed_origins)))
        if self.jwt_public_key is not None:
            object.__setattr__(self, "jwt_public_key", read_public_key(self.jwt_public_key))
        algorithms = accepted_algorithms(self.jwt_secret, self.jwt_public_key, self.jwt_algorithms)
        object.__setattr__(self, "jwt_algorithms", algorithms)

    @property
    def jwt_keys(self) -> tuple[str, ...]:
        """The keys that verify tokens, each of which is enough. The first secret signs new tokens."""
        if self.jwt_secret:
            return split_secrets(self.jwt_secret, self.jwt_algorithms)
        return split_public_keys(self.jwt_public_key or "")

    @property
    def http_keys(self) -> ApiKeys:
        """The keys of the HTTP API, in ``API_KEY`` and ``API_KEYS``."""
        return read_api_keys(self.api_key, self.api_keys)

    def __repr__(self) -> str:
        shown = (f"{item.name}={rule_of(item).show(getattr(self, item.name))}" for item in variables(Settings))
        return f"Settings({', '.join(shown)})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the variables of ``environ``, by default those of the process.

        ``overrides`` are fields with their values; their variables are not read. Raises ``SettingsError`` with one
        sentence that names the variable, the value (never a secret), and what is expected.
        """
        env = Environ(os.environ if environ is None else environ)
        values = dict(overrides)
        for item in variables(Settings):
            if item.name not in values and (value := read_field(env, item)) is not None:
                values[item.name] = value
        known = {*(variable.name for variable in describe()), *file_variables()}
        others = {name: value for name, value in env.environ.items() if name not in known}
        values.setdefault("plugin_variables", others)
        values.setdefault("room_variables", {name: others[name] for name in others if name.startswith("ROOM_")})
        return cls(**values)

    def read_again(self, names: Sequence[str], environ: Mapping[str, str] | None = None) -> Settings:
        """Return these settings with the fields ``names`` as they are in the environment and in files now.

        Raises ``SettingsError`` as ``from_env`` does.
        """
        env = Environ(os.environ if environ is None else environ)
        values: dict[str, Any] = {}
        for item in variables(Settings):
            if item.name in names:
                value = read_field(env, item)
                values[item.name] = item.default if value is None else value
        return replace(self, **values)


def describe() -> list[Variable]:
    """Return a row for each variable, in the order of the fields."""
    return [describe_field(item) for item in variables(Settings)]


def file_variables() -> list[str]:
    """Return the variables that may name files with secrets."""
    return [item.name.upper() + FILE_SUFFIX for item in variables(Settings) if rule_of(item).is_secret]
