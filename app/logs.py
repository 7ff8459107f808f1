"""Log lines on standard error, as text or as JSON, without tokens and tickets.

``configure`` installs one handler on the root logger. Its filter redacts the records of all libraries, because aiohttp
logs whole URLs. ``escape`` and ``redact`` are also used on their own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from .settings import Settings

# A repr shows white space as an escape such as \r. A word may begin after an escape, and an escape counts as a space.
_WORD_START = r"(?:\b|(?<=\\[a-z]))"
_SPACE = r"(?:\s|\\{1,4}[a-z])"

#: Patterns of secrets, each with its replacement. Tokens are in URLs, headers, frames and the subprotocols
#: ``bearer, <token>``. The last pattern matches a JWT anywhere. Quotes may be escaped: a secret can be in a repr in a
#: JSON string.
SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b((?:[a-z_]*token|ticket)(?:=|%3D))[^\s&\"'\\<>#;,)\]}]+"), r"\1***"),
    (re.compile(r"(?i)(\b(?:[a-z_]*token|ticket)\\*[\"']\s*:\s*\\*[\"'])[^\"'\\]+"), r"\1***"),
    (
        re.compile(
            rf"(?i)({_WORD_START}authorization\b[\"'\\)\],>]*{_SPACE}*[:=,]{_SPACE}*b?[\"'\\(<]*)(?:[a-z]+{_SPACE}+)?[^\s\"'\\,)>]+"
        ),
        r"\1***",
    ),
    (re.compile(rf"(?i)({_WORD_START}bearer(?:\b[\"'\\]*(?:{_SPACE}|%20|,|%2C)+[\"'\\]*))[^\s\"'\\,)>]+"), r"\1***"),
    (
        re.compile(
            r"(?:(?<![A-Za-z0-9_-])|(?<=%3D)|(?<=%20)|(?<=\\[a-z])|(?<=\\x[0-9a-f]{2}))eyJ[A-Za-z0-9_-]+(?:(?:\.|%2E)[A-Za-z0-9_-]*){2}"
        ),
        "***",
    ),
)

#: A part of every text that one of the patterns matches. Most lines have none, and this search takes a seventh of the
#: time of all patterns. A line is logged for each connection that ends.
_may_have_secret = re.compile(r"(?i:token|ticket|authorization|bearer)|eyJ").search

# Control characters, line and paragraph separators, characters that change the direction of text, and surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# The attributes of every record. Others are from ``extra``.
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings, worker: int | None = None) -> None:
    """Log to standard error, with the format and the level of ``settings``. Another call replaces the handler.

    ``worker`` is the number of this worker, if several write to the same standard error. Each line contains it.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter(worker) if settings.log_format == "json" else _TextFormatter(worker))
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # The access log has a line per HTTP request, health checks included, so it is for debugging only.
    access = logging.DEBUG if settings.log_level == "debug" else logging.WARNING
    logging.getLogger("aiohttp.access").setLevel(access)


def redact(text: str) -> str:
    """Return ``text`` with ``***`` in place of each token, ticket and Authorization header."""
    if _may_have_secret(text) is None:
        return text
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escape(text: str) -> str:
    r"""Return ``text`` on one line: line breaks and terminal control characters become ``\n``, ``\x1b`` and so on."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class _Handler(logging.StreamHandler[Any]):
    """The handler that ``configure`` installs. Its own class lets ``configure`` find and replace it."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.addFilter(RedactingFilter())


class RedactingFilter(logging.Filter):
    """Redacts a record: its message, the text of its exception, its stack and its ``extra`` fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact ``record`` in place. Return True, so that it is logged."""
        record.msg, record.args = redact(_message(record)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for name in record.__dict__.keys() - _STANDARD_FIELDS:
            value = record.__dict__[name]
            if not isinstance(value, bool | int | float | None):
                record.__dict__[name] = redact(_text(value))
        return True


class _TextFormatter(logging.Formatter):
    """Writes time, level, logger and message. A traceback follows, indented, so that it cannot imitate a log line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._prefix = "" if worker is None else f"[worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.name:<20} {self._prefix}{escape(_message(record))}"
        for block in _blocks(record).values():
            line += "".join(f"\n    | {escape(row)}" for row in block.splitlines())
        return line


class _JsonFormatter(logging.Formatter):
    """Writes a JSON object per line: time, level, logger, message, exception, stack and the ``extra`` fields."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
        line |= {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line |= {**self._worker, "message": _message(record), **_blocks(record)}
        try:
            return json.dumps(line, allow_nan=False)
        except (TypeError, ValueError):
            return json.dumps({name: str(value) for name, value in line.items()})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """Return the message with its arguments. If they do not fit, return it without them: logging must not raise."""
    try:
        return record.getMessage()
    except Exception:
        return f"{_text(record.msg)} (with arguments that do not fit it)"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose str() raised {type(error).__name__}>"


def _blocks(record: logging.LogRecord) -> dict[str, str]:
    blocks = {"exception": record.exc_text, "stack": record.stack_info}
    return {name: block for name, block in blocks.items() if block}
