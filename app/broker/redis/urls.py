"""Parse REDIS_URL: the address of Redis and the credentials. No error or representation contains a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, unquote

from ...errors import SettingsError
from .tls import TlsFiles

Kind = Literal["single", "sentinel", "cluster"]

#: For each scheme: the kind of deployment, and True for TLS.
SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
SCHEMES.update(
    {name.replace("redis", "valkey", 1): meaning for name, meaning in list(SCHEMES.items()) if "redis" in name}
)

_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}
#: The allowed query parameters.
_OPTIONS: Final = frozenset({"db", "ssl_ca_certs", "sentinel_username", "sentinel_password"})
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_NO_FILES: Final = TlsFiles()
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL.

    ``addresses`` are those of the server, of the sentinels, or of some servers of the Cluster. For a Unix socket they
    are empty and ``path`` is set. ``service`` is the name under which Sentinel monitors the primary. ``tls`` is None
    without TLS. ``safe`` is the URL without secrets.
    """

    kind: Kind
    safe: str
    addresses: tuple[tuple[str, int], ...] = ()
    path: str | None = field(default=None, repr=False)
    db: int = field(default=0, repr=False)
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    service: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: TlsFiles | None = field(default=None, repr=False)


def parse(url: str, files: TlsFiles = _NO_FILES) -> Target:
    """Parse ``url``; ``files`` are for TLS. Raises ``SettingsError`` with one sentence that names REDIS_URL."""
    scheme, separator, rest = url.strip().partition("://")
    known = SCHEMES.get(scheme.lower())
    if not separator or known is None:
        raise _wrong(f"must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    kind, tls = known
    rest, _, query = rest.partition("?")
    options = _options(query)
    if "ssl_ca_certs" in options and not tls:
        raise _wrong("has ssl_ca_certs, but no TLS, which rediss:// has")
    userinfo, at, where = rest.rpartition("@")
    username, password = _credentials(userinfo) if at else (None, None)
    files = replace(files, ca=options.get("ssl_ca_certs", files.ca))
    if scheme.lower() == "unix":
        return _socket(where, username, password, options)
    hosts, _, path = where.partition("/")
    addresses = tuple(_address(one, _PORTS[kind]) for one in hosts.split(","))
    service, db = _path(kind, path, options)
    if kind == "single" and len(addresses) > 1:
        raise _wrong("names several servers; for several, use redis+sentinel:// or redis+cluster://")
    shown = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)
    tail = f"/{service}" if service else ""
    return Target(
        kind=kind,
        safe=f"{scheme.lower()}://{shown}{tail}{f'/{db}' if db else ''}",
        addresses=addresses,
        db=db,
        username=username,
        password=password,
        service=service,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=files if tls else None,
    )


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"REDIS_URL {what}; for example redis://127.0.0.1:6379/0.")


def _decoded(text: str) -> str:
    """Undo percent-encoding. A plus remains a plus, because passwords in base64 contain it."""
    try:
        decoded = unquote(text, errors="strict")
        decoded.encode()
    except UnicodeError:
        raise _wrong("has something in it that is not UTF-8") from None  # the error contains the text
    return decoded


def _options(query: str) -> dict[str, str]:
    """Parse the query. Errors do not repeat it, because it may be the rest of a password that contains a ?."""
    if "@" in query:
        raise _wrong("has an @ after its question mark (percent-encode the password: ? is %3F, @ is %40)")
    options = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise _wrong(f"has something after its question mark that is none of {known} (& in a password is %26)")
        options[name] = _decoded(value)
    return options


def _credentials(userinfo: str) -> tuple[str | None, str | None]:
    """Return user name and password of ``user:password``, ``:password`` or ``password``, percent-encoded."""
    user, colon, password = userinfo.partition(":")
    if not colon:
        user, password = "", user
    name, word = _decoded(user), _decoded(password)
    # An empty password without a user was probably left out by mistake; a user may have an empty password.
    return name or None, word if name or word else None


def _address(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None or int(found[3] or port) not in range(1, 65536):
        raise _wrong("has an address that is not host or host:port (percent-encode the password: @ is %40, / is %2F)")
    return found[1] or found[2], int(found[3] or port)


def _path(kind: Kind, path: str, options: dict[str, str]) -> tuple[str | None, int]:
    """Return the name of the service, for Sentinel, and the database."""
    service = None
    if kind == "sentinel":
        name, _, path = path.partition("/")
        service = name or "mymaster"
        if not _SERVICE.fullmatch(service):
            raise _wrong("has a name of the Sentinel service that is invalid")
    text = path or options.get("db", "") or "0"
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise _wrong("has a database that is not a number")
    db = int(text)
    if kind == "cluster" and db:
        raise _wrong("has a database, of which a Cluster has only 0")
    return service, db


def _socket(where: str, username: str | None, password: str | None, options: dict[str, str]) -> Target:
    path = _decoded(where)
    if not path.startswith("/") or not Path(path).name or not path.isprintable():
        raise _wrong("has no path of a socket, as in unix:///run/redis.sock (percent-encode it: @ is %40, ? is %3F)")
    _, db = _path("single", "", options)
    safe = f"unix://{quote(path)}" + (f"?db={db}" if db else "")
    return Target(kind="single", safe=safe, path=path, db=db, username=username, password=password)
