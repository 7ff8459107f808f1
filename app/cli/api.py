"""The HTTP API of a server, as the commands use it, and the options that they need for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import click
import orjson
from yarl import URL

from ..errors import RoomcastError, SettingsError
from ..logs import escape
from ..secret_files import read_secret
from ..setting_rules import split_values
from .exit_status import Denied, Unreachable
from .options import url_option
from .target import DEFAULT_HTTP_URL, connection_error, parse_target

TIMEOUT: Final = aiohttp.ClientTimeout(total=30, connect=10)
ROOT: Final = "/api/v1"

#: The HTTP statuses and the codes of answers after which the same request may succeed.
_TEMPORARY_STATUSES: Final = (408, 409, 429, 500, 502, 503, 504)
#: The HTTP statuses of answers to a key that is wrong or does not allow the request.
_DENIED_STATUSES: Final = (401, 403)

_F = TypeVar("_F", bound=Callable[..., Any])


class ApiRefused(RoomcastError):
    """The server refused a request. ``code`` is the code of its answer, ``items`` are the problems of each event."""

    def __init__(self, sentence: str, code: str, items: list[Mapping[str, Any]]) -> None:
        super().__init__(sentence)
        self.code: Final = code
        self.items: Final = items


class RoomDenied(Denied):
    """The key is for other rooms."""


class Api:
    """The HTTP API of the server at ``url``. Requests are sent with ``key``."""

    def __init__(self, url: str, key: str) -> None:
        self.url: Final = parse_target(url).http
        self._key: Final = key

    async def call(
        self,
        method: str,
        path: str,
        *parts: object,
        query: Mapping[str, str | None] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the object in the answer.

        ``path`` begins after ``/api/v1``; ``parts`` replace the ``{}`` in it, percent-encoded. Parameters of ``query``
        that are None are left out. Raises ``Unreachable``, ``Denied`` and ``ApiRefused``.
        """
        url = URL(self.url + ROOT + path.format(*(quote(str(part), safe="") for part in parts)), encoded=True)
        url = url.with_query({name: value for name, value in (query or {}).items() if value is not None})
        all_headers = {"Authorization": f"Bearer {self._key}", **(headers or {})}
        data = None
        if body is not None:
            data = orjson.dumps(body)
            all_headers["Content-Type"] = "application/json"
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.request(method, url, data=data, headers=all_headers) as response,
            ):
                content = await response.read()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Unreachable(f"{self.url} cannot be reached: {connection_error(error)}.") from error
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not response.ok or not isinstance(answer, dict):
            raise _failure(response.status, answer, content, self.url)
        return answer


def _failure(status: int, answer: Any, body: bytes, url: str) -> RoomcastError:
    """Return the error with the server's sentence, or with a guess if the answer has no sentence.

    Escapes everything, so that an answer cannot control the terminal.
    """
    if not isinstance(answer, Mapping) or "error" not in answer:
        excerpt = body.decode("utf-8", "replace").strip().split("\n")[0][:200]
        sentence = f"{url} answered with HTTP status {status} ({escape(excerpt)}); is it a roomcast server?"
        return Unreachable(sentence) if status in _TEMPORARY_STATUSES else RoomcastError(sentence)
    sentence, code = escape(str(answer["error"])), str(answer.get("code"))
    if code == "forbidden_room":
        return RoomDenied(sentence)
    if status in _DENIED_STATUSES or code == "too_many_wrong_keys":
        return Denied(sentence)
    if status in _TEMPORARY_STATUSES:
        detail = answer.get("detail")
        return Unreachable(sentence if detail is None else f"{sentence} ({escape(str(detail))})")
    items = answer.get("items")
    return ApiRefused(
        sentence, code, [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    )


def item_text(item: Mapping[str, Any]) -> str:
    """Return one problem of an event, as the server describes it, in one line."""
    return escape(f"{item.get('field') or 'as a whole'}: {item.get('error')}")


def api_options(scope: str) -> Callable[[_F], _F]:
    """Return the decorator for ``--url`` and ``--api-key``, which passes ``api``. The key needs ``scope``.

    Without a key the command ends with ``SettingsError``.
    """

    def decorate(function: _F) -> _F:
        @url_option(DEFAULT_HTTP_URL)
        @click.option(
            "--api-key",
            envvar="API_KEY",
            show_envvar=True,
            help=f"Key of the server with the scope {scope}; of several, the first is used.",
        )
        @wraps(function)
        def wrapper(*args: Any, url: str, api_key: str | None, **options: Any) -> Any:
            return function(*args, api=_api(url, api_key), **options)

        return wrapper  # type: ignore[return-value]

    return decorate


def _api(url: str, api_key: str | None) -> Api:
    keys = split_values(api_key or read_secret("API_KEY", os.environ) or "")
    if not keys:
        raise SettingsError("The API key of the server is needed: set API_KEY, or give --api-key.")
    return Api(url, keys[0])
