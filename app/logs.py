"""Log lines on stderr, as text for eyes or as JSON for machines; no token or ticket gets into one."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from roomcast.settings import Settings

# A word may begin behind an escape, such as the \r of a repr, and a space be one.
_BEGINS = r"(?:\b|(?<=\\[a-z]))"
_SPACE = r"(?:\s|\\{1,4}[a-z])"

#: What must not be read in a log, each with what is written instead. Tokens travel in URLs, in headers, in the
#: subprotocol pair ``bearer, <token>`` and in frames; the last pattern finds a JWT wherever it is. Quotes may be
#: escaped, for a secret can be in a repr in a JSON string.
SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b((?:[a-z_]*token|ticket)(?:=|%3D))[^\s&\"'\\<>#;,)\]}]+"), r"\1***"),
    (re.compile(r"(?i)(\b(?:[a-z_]*token|ticket)\\*[\"']\s*:\s*\\*[\"'])[^\"'\\]+"), r"\1***"),
    (
        re.compile(
            rf"(?i)({_BEGINS}authorization\b[\"'\\)\],>]*{_SPACE}*[:=,]{_SPACE}*b?[\"'\\(<]*)(?:[a-z]+{_SPACE}+)?[^\s\"'\\,)>]+"
        ),
        r"\1***",
    ),
    (re.compile(rf"(?i)({_BEGINS}bearer(?:\b[\"'\\]*(?:{_SPACE}|%20|,|%2C)+[\"'\\]*))[^\s\"'\\,)>]+"), r"\1***"),
    (
        re.compile(
            r"(?:(?<![A-Za-z0-9_-])|(?<=%3D)|(?<=%20)|(?<=\\[a-z])|(?<=\\x[0-9a-f]{2}))eyJ[A-Za-z0-9_-]+(?:(?:\.|%2E)[A-Za-z0-9_-]*){2}"
        ),
        "***",
    ),
)

# Control characters, line and paragraph separators, and what reverses the direction of writing.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# What every record has; anything beyond it came by ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings, worker: int | None = None) -> None:
    """Log to stderr as ``log_format`` and ``log_level`` say. Calling it again replaces what it did before.

    ``worker`` is the number of this process among those that write to the same stderr; each line then has it.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter(worker) if settings.log_format == "json" else _TextFormatter(worker))
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # A line per HTTP request, health checks included, is for finding faults only.
    access = logging.DEBUG if settings.log_level == "debug" else logging.WARNING
    logging.getLogger("aiohttp.access").setLevel(access)


def redact(text: str) -> str:
    """``text`` with stars in the place of every token, ticket and Authorization header."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escape(text: str) -> str:
    r"""``text`` on one line: what could begin another line or steer a terminal is written as ``\n``, ``\x1b``, …"""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class _Handler(logging.StreamHandler[Any]):
    """The handler that ``configure`` installs, to be known again, with the last look at each record."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.addFilter(RedactingFilter())


class RedactingFilter(logging.Filter):
    """Takes secrets out of a record: its message, its exception's text, its stack and its ``extra`` fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change ``record`` in place, and let it pass."""
        record.msg, record.args = redact(_message(record)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for name in record.__dict__.keys() - _STANDARD:
            value = record.__dict__[name]
            if not isinstance(value, bool | int | float | None):
                record.__dict__[name] = redact(_text(value))
        return True


class _TextFormatter(logging.Formatter):
    """Lines of time, level, logger and message; a traceback follows, indented, so that nothing passes for a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._mark = "" if worker is None else f"[worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.name:<20} {self._mark}{escape(_message(record))}"
        for block in _blocks(record).values():
            line += "".join(f"\n    | {escape(row)}" for row in block.splitlines())
        return line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, exception and stack if any, and the ``extra`` fields."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._mark = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line |= {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line |= {**self._mark, "message": _message(record), **_blocks(record)}
        try:
            return json.dumps(line, allow_nan=False)
        except (TypeError, ValueError):
            return json.dumps({name: str(value) for name, value in line.items()})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments; a log call whose arguments do not fit must not end what it was in."""
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
