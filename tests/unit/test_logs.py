"""Log lines: their formats, and the secrets that they never contain."""

import asyncio
import json
import logging
import re

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from serving import SECRET

from roomcast.auth.identity import make_token
from roomcast.logs import SECRETS, _may_have_secret, configure, escape, redact
from roomcast.settings import Settings

TOKEN = make_token(SECRET, user_id=1, username="alice")
TICKET = "vX3-9_aQ.ticket"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) *  ?[a-z._]+ +\S")

logger = logging.getLogger("roomcast.test_logs")


@pytest.fixture
def log_as(monkeypatch):
    """A function that configures logging without other handlers. The end of the test restores the old state."""
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    levels = root.level, access.level

    def log_as(log_format: str, log_level: str = "info", worker: int | None = None) -> None:
        monkeypatch.setattr(root, "handlers", [])
        configure(Settings(jwt_secret=SECRET, log_format=log_format, log_level=log_level), worker)

    yield log_as
    root.setLevel(levels[0])
    access.setLevel(levels[1])


def failure(text: str) -> None:
    """Raise an error that was caused by another; both contain ``text``."""
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError(f"no {text}") from error


def test_a_line_contains_the_number_of_its_worker(capsys, log_as):
    """The number is before the message in text, and a field in JSON. Without a worker there is none."""
    log_as("text", worker=2)
    logger.info("here")
    log_as("json", worker=2)
    logger.info("here")
    log_as("json")
    logger.info("here")
    text, marked, plain = capsys.readouterr().err.splitlines()
    assert LINE.match(text)
    assert text.endswith("roomcast.test_logs   [worker 2] here")
    assert json.loads(marked)["worker"] == 2
    assert json.loads(marked)["message"] == "here"
    assert "worker" not in json.loads(plain)


def test_a_text_line_has_time_level_and_logger(capsys, log_as):
    """A line begins with an ISO time in UTC, the level and the logger, in columns."""
    log_as("text")
    logger.info("user %s joined", "alice")
    logger.warning("mind the gap")
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert LINE.match(first)
    assert first.endswith("roomcast.test_logs   user alice joined")
    assert first.index("roomcast") == second.index("roomcast")
    assert out == ""


def test_a_json_line_has_the_extra_fields(capsys, log_as):
    """A line is an object with time, level, logger, message and the extra fields, whose types are kept."""
    log_as("json")
    logger.info("closed after %d s", 5, extra={"user_id": 1, "seconds": 5.5, "reason": None, "room": "channel:1"})
    line = json.loads(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "roomcast.test_logs",
        "message": "closed after 5 s",
        "user_id": 1,
        "seconds": 5.5,
        "reason": None,
        "room": "channel:1",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_level_is_a_threshold(log_format, capsys, log_as):
    """Records below LOG_LEVEL are not written."""
    log_as(log_format, "warning")
    logger.info("quiet")
    logger.warning("loud")
    assert re.findall("quiet|loud", capsys.readouterr().err) == ["loud"]


def test_configure_again_replaces(capsys, log_as):
    """After two calls, a line is written once, in the later format. Handlers of others remain."""
    log_as("text")
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure(Settings(jwt_secret=SECRET, log_format="json"))
    logger.info("once")
    assert json.loads(capsys.readouterr().err)["message"] == "once"
    assert other in logging.getLogger().handlers


def test_a_traceback_is_written(capsys, log_as):
    """A traceback follows its line indented in text, and is a field in JSON."""
    for log_format in ("text", "json"):
        log_as(log_format)
        try:
            failure("bananas")
        except ValueError:
            logger.exception("handler failed", stack_info=True)
    first, *rest, last = capsys.readouterr().err.splitlines()
    assert first.endswith("handler failed")
    assert all(row.startswith("    | ") for row in rest)
    assert any("ValueError: no bananas" in row for row in rest)
    assert "KeyError: 'bananas'" in json.loads(last)["exception"]
    assert "Stack (most recent call last)" in json.loads(last)["stack"]


LEAKS = [
    f"GET /api/v1/ws/connect?token={TOKEN} HTTP/1.1",
    f"GET /api/v1/ws/connect?a=1&ticket={TICKET}&b=2",
    "GET /x?token=0paque.t0ken",
    "GET /x?access_token=0paque.t0ken&x=1",
    "GET /x?token%3D0paque.t0ken",
    "Authorization: Bearer 0paque.t0ken",
    "authorization: Basic 0paque.t0ken",
    "Authorization: 0paque.t0ken",
    "<CIMultiDictProxy('Host': 'x', 'Authorization': 'Bearer 0paque.t0ken')>",
    "{'Authorization': 'Token 0paque.t0ken'}",
    "(b'Authorization', b'Bearer 0paque.t0ken')",
    '{"Authorization": "Bearer 0paque.t0ken"}',
    "Sec-WebSocket-Protocol: bearer, 0paque.t0ken",
    "Sec-WebSocket-Protocol: bearer,0paque.t0ken",
    "BEARER 0paque.t0ken",
    '{"type":"refresh_token","data":{"token":"0paque.t0ken"}}',
    "{'data': {'token': '0paque.t0ken'}}",
    r"b'{\"ticket\": \"0paque.t0ken\"}'",
    rf"b'GET / HTTP/1.1\rAuthorization: Bearer\t{TOKEN}'",
    r"b'GET / HTTP/1.1\rAuthorization:\tBearer\t0paque.t0ken'",
    r"b'x\rSec-WebSocket-Protocol:\tbearer,\t0paque.t0ken'",
    rf"b'\x0b{TOKEN}'",
    f"cannot parse {TOKEN}!",
    f"URL('/x?token%3D{TOKEN}')",
    f"/x?t={TOKEN.replace('.', '%2E')}",
]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("leak", LEAKS)
def test_a_line_contains_no_token(leak, log_format, capsys, log_as):
    """Tokens and tickets in the message, its arguments, an exception or extra fields become stars."""
    log_as(log_format)
    logger.info(leak, extra={"request": leak, "deep": {"list": [leak]}})
    logger.info("request %s of %r", leak, leak)
    try:
        failure(leak)
    except ValueError:
        logger.exception("bad", stack_info=True)
    err = capsys.readouterr().err
    assert "***" in err
    for secret in (*TOKEN.split("."), TICKET, "0paque.t0ken"):
        assert secret not in err
    if log_format == "json":
        assert all(json.loads(line) for line in err.splitlines())


def test_redacting_keeps_the_rest():
    """Only the secret is replaced, and similar text is not."""
    assert redact(f"GET /connect?token={TOKEN}&v=2 HTTP/1.1") == "GET /connect?token=***&v=2 HTTP/1.1"
    assert redact('{"token":"abc","room":"task:1"}') == '{"token":"***","room":"task:1"}'
    for harmless in (
        "The token has expired.",
        "AuthenticationFailed: The token's signature is wrong",
        "token: none given, ticket: none",
        "joined channel:eyJ",
        "tokens=3 and an Authorization header",
    ):
        assert redact(harmless) == harmless


@pytest.mark.parametrize(
    "nasty",
    [
        "alice\n2025-01-01T00:00:00.000Z ERROR   roomcast.gateway     all is lost",
        "\r\x1b[2J\x1b]0;owned\x07",
        "a\x00b\x7f\x85\x9b",
        "a\u2028b\u2029c",
        "\u202egnp.exe\u2066",
        "\ud800",
    ],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_name_cannot_forge_a_line(nasty, log_format, capsys, log_as):
    """Line breaks, terminal controls and changes of direction are escaped, and the record stays on one line."""
    log_as(log_format)
    logger.info("user %s joined", nasty)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.rstrip("\n").isprintable()
    if log_format == "json":
        assert json.loads(err)["message"] == f"user {nasty} joined"


def test_an_exception_cannot_forge_a_line(capsys, log_as):
    """The text of an exception may have several lines; all of them are indented and escaped."""
    log_as("text")
    try:
        failure("\n2025-01-01T00:00:00.000Z ERROR   roomcast.gateway     all is lost\x1b[2J")
    except ValueError:
        logger.exception("bad")
    first, *rest = capsys.readouterr().err.splitlines()
    assert LINE.match(first)
    assert all(row.startswith("    | ") and row.isprintable() for row in rest)


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_wrong_log_call_still_writes_a_line(log_format, capsys, log_as):
    """Arguments that do not fit, and values that JSON does not have, do not raise in the caller."""
    log_as(log_format)
    logger.info("%d of %d", 1)
    logger.info("%(missing)s", {"present": 1})
    logger.info("odd", extra={"value": float("nan"), "thing": object(), "raw": b"\xff", "set": {1}})
    logger.info("broken %s", Broken(), extra={"thing": Broken()})
    logger.info(Broken())
    assert len(capsys.readouterr().err.splitlines()) == 5


async def test_aiohttp_logs_no_token(capsys, log_as):
    """The URLs in the access and error logs of aiohttp are redacted. The access log is written at debug only."""

    async def fail(request):
        raise RuntimeError(f"cannot serve {request.url}")

    app = web.Application()
    app.router.add_get("/{tail:.*}", fail)
    for level in ("debug", "info"):
        log_as("text", level)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/connect?ticket={TICKET}&token={TOKEN}"
        async with aiohttp.ClientSession() as session:
            for header in ("Authorization", "Sec-WebSocket-Protocol"):
                async with session.get(url, headers={header: f"Bearer {TOKEN}"}) as response:
                    assert response.status == 500
        await runner.cleanup()
    err = capsys.readouterr().err
    assert err.count("aiohttp.server ") == 4
    assert err.count("aiohttp.access ") == 2
    assert "cannot serve" in err
    assert TICKET not in err
    assert not any(part in err for part in TOKEN.split("."))


async def test_an_error_in_a_task_logs_no_token(capsys, log_as):
    """Errors that the event loop reports are redacted too."""
    log_as("text")
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"unhandled at /x?token={TOKEN}", "exception": ValueError(f"bearer {TOKEN}")}
    )
    err = capsys.readouterr().err
    assert "unhandled at /x?token=***" in err
    assert "ValueError: bearer ***" in err


@given(st.text())
def test_escaped_text_is_one_line(text):
    """Any text becomes one line that can be encoded."""
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert "\x1b" not in escaped
    escaped.encode()


@given(st.text(alphabet="eyJ.=-_ bearertokn\"'\\:&?%3D,", max_size=200))
def test_a_token_after_any_text_is_redacted(text):
    """No text before a token prevents its redaction."""
    once = redact(f"{text} ?token={TOKEN}")
    assert TOKEN.split(".")[1] not in once
    assert TOKEN.split(".")[2] not in once


@pytest.mark.parametrize("number", range(len(SECRETS)))
@given(data=st.data())
def test_every_text_that_a_pattern_matches_is_searched(number, data):
    """A line is searched for secrets if any of the patterns matches it."""
    pattern, replacement = SECRETS[number]
    text = data.draw(st.from_regex(pattern))
    assert _may_have_secret(text)
    assert pattern.sub(replacement, text) != text or "***" in text
