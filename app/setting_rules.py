"""The rules for settings: types and bounds, the formats of prefixes, API keys, URLs and origins, and relations.

A failed check raises ``SettingsError``. Its message has the name of the variable, its value unless that is secret, and
the expected value. ``signing_keys`` checks the keys of tokens, ``api_keys`` those of the HTTP API.
"""

from __future__ import annotations

import re
from base64 import b64decode
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, NamedTuple

from yarl import URL

from .errors import SettingsError

#: The greatest length of a value in an error sentence, in characters.
MAX_SHOWN: Final = 100

#: The host may begin with "*." for its subdomains, and the port may be "*".
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)(:(?P<port>[0-9]{1,5}|\*))?"
)
#: No braces, which select the slot of a key in a Cluster, and no wildcards of Redis patterns.
_PREFIX: Final = re.compile(r"[^\x00-\x20\x7f-\U0010ffff{}\[\]*?\\]{1,64}")
_HOST: Final = re.compile(r"\[[0-9a-f:.]+(%\w+)?\]|[\w.-]+", re.ASCII | re.IGNORECASE)
IPAddress = IPv4Address | IPv6Address
#: The proxies in front of the server: how many, or the networks that they are in.
TrustedProxies = int | tuple[IPv4Network | IPv6Network, ...]
#: The words for one proxy and for none are those of settings that are true or false.
_TRUE: Final = ("true", "t", "yes", "y", "on")
_FALSE: Final = ("false", "f", "no", "n", "off", "")
_DEFAULT_PORT: Final = re.compile(r"(?<=^http:)(.*):80$|(?<=^https:)(.*):443$")


class Rule(NamedTuple):
    """The description and the bounds of one setting.

    ``kind`` is ``str``, ``int``, ``float``, ``bool`` or ``list``. ``minimum`` is the least value allowed, ``above`` a
    value that must be exceeded, ``maximum`` the greatest one allowed. ``choices`` are the only values allowed, if there
    are any.
    """

    kind: str
    meaning: str
    unit: str = ""
    minimum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    is_secret: bool = False
    maximum: float | None = None

    @property
    def expected(self) -> str:
        """The allowed values in words, as the end of the sentence "… must be"."""
        if self.choices:
            return " or ".join(self.choices)
        noun = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(self.kind, "a text")
        bound = f" of at least {self.minimum:g}" if self.minimum is not None else ""
        bound += f" above {self.above:g}" if self.above is not None else ""
        if self.maximum is not None:
            bound += f"{' and' if bound else ' of'} at most {self.maximum:.12g}"
        return noun + bound

    def allows(self, value: Any) -> bool:
        """Return True if ``value``, which has the right type, is within the bounds. NaN is not."""
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (not self.choices or value in self.choices)
        )

    def show(self, value: Any) -> str:
        """Return ``value`` for logs and errors: secrets are stars, URLs are without credentials and query."""
        return "***" if self.is_secret and value is not None else show(value)

    def refusal(self, name: str, value: Any) -> SettingsError:
        """Return the error for the variable ``name``, whose ``value`` is not allowed."""
        return SettingsError(f"{name} is {self.show(value)}; it must be {self.expected}.")


def show(value: Any) -> str:
    """Return a value that is not secret for logs and errors: shortened, URLs without credentials and query."""
    if isinstance(value, str) and "://" in value:
        value = re.sub(r"//[^/@]*@", "//***@", value.partition("?")[0])
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def check_redis_prefix(value: str) -> None:
    """Raise ``SettingsError`` if ``value`` is not a prefix for keys in Redis."""
    if not _PREFIX.fullmatch(value):
        raise SettingsError(
            f"REDIS_PREFIX is {show(value)}; it must be 1 to 64 visible ASCII characters, and none of {{}}[]*?\\."
        )


def check_buffer(ws_max_buffer: int, ws_max_message_size: int) -> None:
    """Raise ``SettingsError`` if one message does not fit into the buffer."""
    if ws_max_buffer < ws_max_message_size:
        raise SettingsError(
            f"WS_MAX_BUFFER is {ws_max_buffer}; it must be at least WS_MAX_MESSAGE_SIZE, which is "
            f"{ws_max_message_size}, or a message of that size would close the connection of each recipient."
        )


def check_lease(redis_lease: float, redis_timeout: float) -> None:
    """Require that a lease does not expire while Redis is silent for less than ``redis_timeout``.

    Nodes renew a lease after a third of its time, so at least two thirds remain when Redis becomes silent. Raises
    ``SettingsError``.
    """
    if redis_lease < 1.5 * redis_timeout:
        raise SettingsError(
            f"REDIS_LEASE is {redis_lease:g}; it must be at least 1.5 times REDIS_TIMEOUT, which is "
            f"{redis_timeout:g}, or leases could expire before a node detects that Redis does not answer."
        )


def split_values(value: str) -> tuple[str, ...]:
    """Return the values in ``value``, which are separated by commas or line ends."""
    return tuple(one for part in value.replace("\n", ",").split(",") if (one := part.strip()))


def check_api_key(value: str | None) -> None:
    """Raise ``SettingsError`` if an Authorization header cannot contain one of the keys in ``value``."""
    if value is None:
        return
    keys = split_values(value)
    # Without a second key, white space was not meant as a separator.
    if not keys or not all(re.fullmatch(r"[!-~]+", key) for key in (keys if len(keys) > 1 else (value,))):
        raise SettingsError(
            "API_KEY has a space, a line end or another character that an Authorization header cannot carry; "
            "it must be visible ASCII, for example from `openssl rand -base64 30`. Commas separate several keys."
        )


def check_room_access(value: str) -> None:
    """Raise ``SettingsError`` if ``value`` is not ``claims``, ``open``, or a URL: https, or http to this machine."""
    if value in ("claims", "open"):
        return
    try:
        url = URL() if re.search(r"\s", value) else URL(value)
    except ValueError:
        url = URL()
    if not url.host or url.scheme not in ("http", "https"):
        raise SettingsError(f"ROOM_ACCESS is {show(value)}; it must be claims, open, or an https:// URL to ask.")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise SettingsError(
            f"ROOM_ACCESS is {show(value)}; http:// is for this machine only (localhost), for {url.host} it must be "
            "https://."
        )


def check_room_access_secrets(values: tuple[str, ...]) -> None:
    """Raise ``SettingsError`` if one of ``values`` is not a secret of Standard Webhooks."""
    for value in values:
        try:
            size = len(b64decode(value.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if not value.startswith("whsec_") or not 24 <= size <= 64:
            raise SettingsError(
                "ROOM_ACCESS_SECRET must be whsec_ and 24 to 64 random bytes in Base64, for example from "
                '`echo "whsec_$(openssl rand -base64 32)"`; commas separate several.'
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def normalize_origin(value: str) -> str:
    """Return an entry of ``ALLOWED_ORIGINS`` as browsers write an origin (RFC 6454, section 6.1).

    ``*`` stands for all origins and ``null`` for opaque ones (RFC 6454, section 6.1). Raises ``SettingsError``.
    """
    origin = _DEFAULT_PORT.sub(r"\1\2", value.lower().removesuffix("/"))
    if origin in ("*", "null"):
        return origin
    found = _ORIGIN.fullmatch(origin)
    if found is None or not (found["port"] in (None, "*") or 0 < int(found["port"]) < 65536):
        raise SettingsError(
            f"ALLOWED_ORIGINS has {show(value)}; an origin is scheme://host or scheme://host:port, like "
            "https://app.example.com. https://*.example.com stands for all subdomains, http://localhost:* for all "
            "ports, null for sandboxed pages and files, and * for all origins. Write an international name as xn--…."
        )
    return origin


def normalize_public_url(value: str) -> str:
    """Return ``PUBLIC_URL`` without a slash at its end. Raises ``SettingsError``."""
    try:
        url = URL() if re.search(r"\s", value) else URL(value)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string or url.fragment:
        raise SettingsError(
            f"PUBLIC_URL is {show(value)}; it must be an https:// or http:// URL with a host and perhaps a path, like "
            "https://example.com/rt."
        )
    return str(url).rstrip("/")


def split_address(value: str, name: str = "INTERNAL_ADDRESS") -> tuple[str, int]:
    """Return the host, without brackets, and the port in the variable ``name``. Raises ``SettingsError``."""
    host, _, port = value.rpartition(":")
    if not _HOST.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise SettingsError(
            f"{name} is {show(value)}; it must be host:port, like 127.0.0.1:9000 or [::1]:9000. 0.0.0.0:9000 "
            "means all IPv4 addresses of this machine, and [::]:9000 all."
        )
    return host.strip("[]"), int(port)


@cache
def trusted_proxies(value: str) -> TrustedProxies:
    """Return the proxies that ``TRUST_PROXY`` names: a number of them, or their networks. Raises ``SettingsError``."""
    text = value.strip().lower()
    if text in _TRUE + _FALSE:
        return int(text in _TRUE)
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text)
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"TRUST_PROXY is {show(value)}; it must be the number of proxies in front of the server, or their "
            f"networks, like 10.0.0.0/8,2001:db8::/32. {error}."
        ) from None
