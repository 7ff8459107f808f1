"""Settings: environment variables, read once into one frozen object.

The fields of ``Settings`` are the one list of all variables: their defaults, units, meanings and bounds stand there,
``describe`` makes the table of the documentation from it, and ``Settings.from_env`` the reading. A field is its
variable's name in lower case. An empty variable counts as one that is not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from environs import Env, EnvValidationError
from jwt import InvalidKeyError
from jwt.algorithms import HMACAlgorithm
from yarl import URL

from roomcast.errors import SettingsError

#: Algorithms of a shared secret, with the bytes the secret must have at least (RFC 7518, section 3.2).
HMAC_ALGORITHMS: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}

#: RSA keys are of 2048 bits at least (RFC 7518, sections 3.3 and 3.5).
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
RSA_BITS = 2048

#: Each curve has one algorithm (RFC 7518, section 3.4; RFC 8812, section 3.2).
CURVE_ALGORITHMS: Mapping[str, str] = {
    "secp256r1": "ES256",
    "secp384r1": "ES384",
    "secp521r1": "ES512",
    "secp256k1": "ES256K",
}

#: Characters of a value that a sentence repeats.
MAX_SHOWN = 100

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_PREFIX = re.compile(r"[^\x00-\x20\x7f-\U0010ffff{}\[\]*?\\]{1,64}")
_DEFAULT_PORT = re.compile(r"(?<=^http:)(.*):80$|(?<=^https:)(.*):443$")


class Variable(NamedTuple):
    """A row of the table of settings: all texts, ``default`` as one would write it (empty: none), ``unit`` or empty."""

    name: str
    default: str
    unit: str
    meaning: str


class Rule(NamedTuple):
    """What a setting is and may be: ``kind`` names its reader, the rest its bounds and its text."""

    kind: str
    meaning: str
    unit: str = ""
    minimum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def wanted(self) -> str:
        """The end of a sentence that says what to give."""
        if self.choices:
            return " or ".join(self.choices)
        noun = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(self.kind, "a text")
        bound = f" of at least {self.minimum:g}" if self.minimum is not None else ""
        bound += f" above {self.above:g}" if self.above is not None else ""
        return noun + bound

    def fits(self, value: Any) -> bool:
        """Whether ``value``, of the right type already, is within the bounds (NaN is not)."""
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (not self.choices or value in self.choices)
        )


def _setting(default: Any, kind: str, meaning: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(kind, meaning, **rule)})


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Every setting, checked. Raises ``SettingsError`` with a sentence for the operator when one is wrong.

    ``jwt_algorithms`` is filled from the key when not given, and ``jwt_public_key`` holds the PEM text even when a path
    was given. ``allowed_origins`` is as browsers write origins: lower case, without a default port.
    """

    redis_url: str | None = _setting(
        None,
        "str",
        "URL of the Redis that the nodes share; without it, one process uses the embedded broker",
        secret=True,
    )
    redis_prefix: str = _setting(
        "roomcast", "str", "Prefix of every key in Redis; deployments that share a Redis need different prefixes"
    )
    redis_ca: str | None = _setting(
        None,
        "str",
        "Path of a PEM file with the authorities to trust for rediss://; by default the system's authorities",
    )
    redis_lease: float = _setting(
        30.0,
        "float",
        "How long the connections and members of a dead node still count; at least 1.5 times REDIS_TIMEOUT",
        unit="s",
        above=0,
    )
    redis_wait: float = _setting(
        5.0, "float", "How long the start and each publish wait for an unreachable Redis", unit="s", above=0
    )
    redis_buffer: int = _setting(
        16777216,
        "int",
        "Maximum total size of the publishes that wait for Redis; further publishes fail at once",
        unit="bytes",
        minimum=1,
    )
    redis_timeout: float = _setting(
        3.0,
        "float",
        "How long Redis may be silent before its connection counts as dead and is reopened",
        unit="s",
        above=0,
    )
    max_connections_per_user: int = _setting(
        5, "int", "Maximum number of concurrent connections of one user, over all nodes", minimum=1
    )
    max_rooms_per_connection: int = _setting(
        200, "int", "Maximum number of rooms that one connection may be in", minimum=1
    )
    ws_heartbeat_interval: float = _setting(
        30.0,
        "float",
        "Silence after which the server pings a client; after two intervals it drops the connection",
        unit="s",
        above=0,
    )
    ws_max_message_size: int = _setting(
        65536,
        "int",
        "Maximum size of a message from a client; a larger message closes the connection with 1009",
        unit="bytes",
        minimum=1,
    )
    ws_max_buffer: int = _setting(
        1048576,
        "int",
        "Maximum amount of unsent data per connection; a connection with more is closed with 1013",
        unit="bytes",
        minimum=1,
    )
    ws_message_rate: int = _setting(
        100,
        "int",
        "Message rate that one client may sustain, with bursts of five times as many; 0 means no limit",
        unit="per second",
        minimum=0,
    )
    jwt_secret: str | None = _setting(
        None,
        "str",
        "Secret that tokens are signed with, at least 32 bytes; set either this or JWT_PUBLIC_KEY",
        secret=True,
    )
    jwt_public_key: str | None = _setting(
        None, "str", "Public key that verifies tokens: PEM text, or the path of a PEM file", secret=True
    )
    jwt_algorithms: tuple[str, ...] = _setting(
        (),
        "list",
        "Accepted signature algorithms, separated by commas; by default HS256 for a secret, else the key's own",
    )
    jwt_audience: str | None = _setting(None, "str", "Audience that a token's aud must be or contain")
    jwt_issuer: str | None = _setting(None, "str", "Issuer that a token's iss must equal")
    jwt_leeway: float = _setting(
        0.0, "float", "Clock difference that is tolerated for exp and nbf", unit="s", minimum=0
    )
    jwt_require_exp: bool = _setting(True, "bool", "Refuse tokens that have no expiry time (exp)")
    api_key: str | None = _setting(None, "str", "Bearer key of the HTTP API; without it the API is off", secret=True)
    allowed_origins: tuple[str, ...] = _setting(
        (), "list", "Origins whose pages may connect, separated by commas, or *; by default only pages of the same host"
    )
    room_access: str = _setting(
        "claims",
        "str",
        "Default rule for joining a room: claims (the token's rooms), open (everyone), or an https:// URL to ask",
    )
    room_access_timeout: float = _setting(
        2.0,
        "float",
        "How long the URL in ROOM_ACCESS may take to answer; after that the join is refused",
        unit="s",
        above=0,
    )
    room_access_cache: float = _setting(
        10.0, "float", "How long an answer of the URL in ROOM_ACCESS is cached; 0 asks every time", unit="s", minimum=0
    )
    forbidden_join: str = _setting(
        "close",
        "str",
        "What follows the error of a forbidden join: close the connection with 4403, or keep it",
        choices=("close", "keep"),
    )
    announce_max: int = _setting(
        1000, "int", "Number of users in a room above which joins and leaves are not announced", minimum=0
    )
    history_size: int = _setting(500, "int", "Number of events kept per room", minimum=0)
    history_ttl: float = _setting(3600.0, "float", "How long an event is kept", unit="s", above=0)
    handshake_timeout: float = _setting(
        10.0, "float", "How long a client may take to send the head of its request", unit="s", above=0
    )
    handler_timeout: float = _setting(
        10.0,
        "float",
        "How long a plugin may take to handle a command; after that the command is cancelled",
        unit="s",
        above=0,
    )
    ticket_ttl: float = _setting(30.0, "float", "How long a ticket is valid", unit="s", above=0)
    revocation_ttl: float = _setting(
        30 * 86400.0,
        "float",
        "How long a revocation is kept; at least the lifetime of the longest-lived token",
        unit="s",
        above=0,
    )
    drain_seconds: float = _setting(
        10.0, "float", "Time over which the connections are closed at shutdown", unit="s", minimum=0
    )
    console: bool = _setting(False, "bool", "Serve the debug console at /console, protected by API_KEY")
    log_format: str = _setting("text", "str", "Format of the log lines: text or json", choices=("text", "json"))
    log_level: str = _setting(
        "info",
        "str",
        "Lowest level that is logged: debug, info, warning or error",
        choices=("debug", "info", "warning", "error"),
    )
    trust_proxy: bool = _setting(
        False, "bool", "Take a client's address from the last entry of X-Forwarded-For; only behind a proxy of your own"
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            rule: Rule = item.metadata["rule"]
            if not rule.fits(value := getattr(self, item.name)):
                raise _refusal(item, value)
        _check_prefix(self.redis_prefix)
        _check_buffer(self)
        _check_lease(self)
        _check_api_key(self.api_key)
        _check_room_access(self.room_access)
        object.__setattr__(self, "allowed_origins", tuple(map(_origin, self.allowed_origins)))
        if self.jwt_public_key is not None:
            object.__setattr__(self, "jwt_public_key", _pem(self.jwt_public_key))
        object.__setattr__(self, "jwt_algorithms", _algorithms(self))

    def __repr__(self) -> str:
        shown = (f"{item.name}={_shown(item.metadata['rule'], getattr(self, item.name))}" for item in fields(self))
        return f"Settings({', '.join(shown)})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the variables of ``environ`` (default: the process's); ``overrides`` are fields that win over them.

        Raises ``SettingsError``: one sentence with the variable, what was given (never a secret) and what is wanted.
        """
        env = _Environ(os.environ if environ is None else environ)
        values = dict(overrides)
        for item in fields(cls):
            if item.name not in values and (value := _read(env, item)) is not None:
                values[item.name] = value
        return cls(**values)


def describe() -> list[Variable]:
    """Every variable, in the order of the fields, as texts for a table."""
    return [
        Variable(item.name.upper(), _default(item.default), item.metadata["rule"].unit, item.metadata["rule"].meaning)
        for item in fields(Settings)
    ]


def _default(value: Any) -> str:
    if value is None or value is MISSING or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class _Environ(Env):
    """environs' reader over a mapping of our own, in which an empty value is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self._environ = {name: value for name, value in environ.items() if value.strip()}

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._environ.get(env_key, default)


def _read(env: _Environ, item: Field[Any]) -> Any:
    """The value of a field's variable, or None when it is not set."""
    rule: Rule = item.metadata["rule"]
    name = item.name.upper()
    try:
        if rule.kind == "list":
            words = env.list(name, None, subcast=str)
            return words and tuple(word.strip() for word in words if word.strip())
        value = getattr(env, rule.kind)(name, None)
    except EnvValidationError as error:
        raise _refusal(item, env.str(name)) from error
    if value is not None and rule.kind == "str" and not rule.secret:
        value = value.strip()
    return value.lower() if value is not None and rule.choices else value


def _shown(rule: Rule, value: Any) -> str:
    """``value`` for eyes other than the operator's: secrets as stars, URLs without what a URL can hide."""
    if rule.secret and value is not None:
        return "***"
    if isinstance(value, str) and "://" in value:
        value = re.sub(r"//[^/@]*@", "//***@", value.partition("?")[0])
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _refusal(item: Field[Any], given: Any) -> SettingsError:
    rule: Rule = item.metadata["rule"]
    return SettingsError(f"{item.name.upper()} is {_shown(rule, given)}; it must be {rule.wanted}.")


def _check_prefix(value: str) -> None:
    """Braces would choose the hash tag of keys, and globs mean other keys wherever patterns are written."""
    if not _PREFIX.fullmatch(value):
        raise SettingsError(
            f"REDIS_PREFIX is {_shown(Rule('str', ''), value)}; it must be 1 to 64 visible ASCII characters, and none "
            "of {}[]*?\\."
        )


def _check_buffer(settings: Settings) -> None:
    if settings.ws_max_buffer < settings.ws_max_message_size:
        raise SettingsError(
            f"WS_MAX_BUFFER is {settings.ws_max_buffer}; it must be at least WS_MAX_MESSAGE_SIZE, which is "
            f"{settings.ws_max_message_size}, or a message of that size would close whoever it is sent to."
        )


def _check_lease(settings: Settings) -> None:
    """Leases are renewed each third of one, so that two thirds are left at least when Redis falls silent."""
    if settings.redis_lease < 1.5 * settings.redis_timeout:
        raise SettingsError(
            f"REDIS_LEASE is {settings.redis_lease:g}; it must be at least 1.5 times REDIS_TIMEOUT, which is "
            f"{settings.redis_timeout:g}, or leases would end in a silence that no node takes for an outage yet."
        )


def _check_api_key(value: str | None) -> None:
    if value is not None and not re.fullmatch(r"[!-~]+", value):
        raise SettingsError(
            "API_KEY has a space, a line end or another character that an Authorization header cannot carry; "
            "it must be visible ASCII, for example from `openssl rand -base64 30`."
        )


def _check_room_access(value: str) -> None:
    if value in ("claims", "open"):
        return
    shown = _shown(Rule("str", ""), value)
    try:
        url = URL() if re.search(r"\s", value) else URL(value)
    except ValueError:
        url = URL()
    if not url.host or url.scheme not in ("http", "https"):
        raise SettingsError(f"ROOM_ACCESS is {shown}; it must be claims, open, or an https:// URL to ask.")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise SettingsError(
            f"ROOM_ACCESS is {shown}; http:// is for this machine only (localhost), for {url.host} it must be https://."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin(value: str) -> str:
    """``value`` as browsers write an origin (RFC 6454, section 6.1)."""
    origin = _DEFAULT_PORT.sub(r"\1\2", value.lower().removesuffix("/"))
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise SettingsError(
            f"ALLOWED_ORIGINS has {_shown(Rule('list', ''), value)}; an origin is scheme://host or scheme://host:port, "
            "like https://app.example.com, and * stands for all."
        )
    return origin


def _pem(value: str) -> str:
    """The PEM text that ``JWT_PUBLIC_KEY`` is or points to; a line end may be written ``\\n``, as in .env files."""
    if "-----BEGIN" in value:
        return value.replace("\\n", "\n")
    try:
        return Path(value.strip()).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SettingsError(
            f"JWT_PUBLIC_KEY is neither PEM text (-----BEGIN PUBLIC KEY-----) nor the path of such a file ({reason})."
        ) from error


def _algorithms(settings: Settings) -> tuple[str, ...]:
    """The algorithms to accept: those of the settings, if they fit the key, or the key's own."""
    if settings.jwt_secret and settings.jwt_public_key:
        raise SettingsError(
            "JWT_SECRET and JWT_PUBLIC_KEY are both set; give the one your tokens are signed for and unset the other."
        )
    if settings.jwt_public_key:
        name, able = "JWT_PUBLIC_KEY", _key_algorithms(settings.jwt_public_key)
    elif settings.jwt_secret:
        name, able = "JWT_SECRET", tuple(HMAC_ALGORITHMS)
    else:
        raise SettingsError(
            "JWT_SECRET or JWT_PUBLIC_KEY must be set, to verify the tokens of your users; "
            "to try roomcast without one, run `roomcast dev`."
        )
    for algorithm in settings.jwt_algorithms:
        if algorithm not in able:
            raise SettingsError(f"JWT_ALGORITHMS has {algorithm!r}; with this {name} it can be {', '.join(able)}.")
    algorithms = settings.jwt_algorithms or able[:1]
    if settings.jwt_secret:
        _check_secret(settings.jwt_secret, algorithms)
    return algorithms


def _check_secret(secret: str, algorithms: tuple[str, ...]) -> None:
    size = len(secret.encode("utf-8", "surrogateescape"))
    for algorithm in algorithms:
        if size < HMAC_ALGORITHMS[algorithm]:
            raise SettingsError(
                f"JWT_SECRET is {size} bytes long; {algorithm} needs {HMAC_ALGORITHMS[algorithm]} or more "
                "(RFC 7518, section 3.2), for example from `openssl rand -base64 48`."
            )
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except (InvalidKeyError, UnicodeError) as error:
        raise SettingsError(
            "JWT_SECRET is not a secret but a key, a certificate or no text; a public key belongs in JWT_PUBLIC_KEY."
        ) from error


def _key_algorithms(pem: str) -> tuple[str, ...]:
    """The algorithms that the public key ``pem`` is for, the usual one first."""
    if "PRIVATE KEY" in pem:
        raise SettingsError("JWT_PUBLIC_KEY is a private key; give its public half, and keep this one from servers.")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError("JWT_PUBLIC_KEY is not a public key in PEM (-----BEGIN PUBLIC KEY-----).") from error
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise SettingsError(
                f"JWT_PUBLIC_KEY is an RSA key of {key.key_size} bits; it must have {RSA_BITS} or more."
            )
        return RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVE_ALGORITHMS:
        return (CURVE_ALGORITHMS[key.curve.name],)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    raise SettingsError("JWT_PUBLIC_KEY is of a kind that signs no tokens; it must be RSA, EC, Ed25519 or Ed448.")
