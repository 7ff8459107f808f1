"""Tests of ``roomcast_client.exchange``: what is repeated, when, and which errors the answers become."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from roomcast_client import (
    ApiError,
    AuthenticationFailed,
    BadResponse,
    Conflict,
    PermissionDenied,
    RateLimited,
    Refused,
    Retries,
    ServerFailed,
    Unreachable,
    calls,
)
from roomcast_client.exchange import Pause, Send, carry_out


class Clock:
    """A clock that only ``run`` moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(*outcomes: httpx.Response | str, retries: Retries | None = None, seconds: float = 0.0) -> tuple[Any, list[Any]]:
    """Publish with these outcomes, the last one forever; return the result or the error, and the steps.

    Each request takes ``seconds``.
    """
    clock, steps = Clock(), []
    script = list(outcomes)
    generator = carry_out(calls.publish("a", "b:1", {}, None, None), retries or Retries(), 5.0, clock)
    outcome: httpx.Response | str | None = None
    try:
        while True:
            step = generator.send(outcome)
            steps.append(step)
            if isinstance(step, Pause):
                clock.now += step.seconds
                outcome = None
            else:
                clock.now += seconds
                outcome = script.pop(0) if len(script) > 1 else script[0]
    except StopIteration as done:
        return done.value, steps
    except Exception as error:
        return error, steps


def error(status: int, code: str, **headers: str) -> httpx.Response:
    """Return an error of roomcast."""
    return httpx.Response(status, json={"error": "A sentence.", "code": code}, headers=headers)


PUBLISHED = httpx.Response(200, json={"id": "e-1"})


@pytest.mark.parametrize(
    "first",
    [
        "The server cannot be reached",
        error(409, "in_progress", **{"Retry-After": "1"}),
        error(429, "rate_limited"),
        error(503, "unavailable", **{"Retry-After": "1"}),
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.Response(504, text=""),
    ],
    ids=["lost", "409", "429", "503", "502 of a proxy", "504 of a proxy"],
)
def test_what_can_succeed_is_repeated(first: httpx.Response | str) -> None:
    """The second attempt has the same key and the same bytes, after a pause."""
    result, (one, pause, two) = run(first, PUBLISHED)
    assert result == "e-1"
    assert (one.headers, one.body) == (two.headers, two.body) and one.headers["Idempotency-Key"]
    assert isinstance(pause, Pause) and pause.seconds > 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(400, "bad_json"), Refused),
        (error(401, "unauthorized"), AuthenticationFailed),
        (error(403, "missing_scope"), PermissionDenied),
        (error(404, "no_such_path"), Refused),
        (error(422, "invalid_data"), Refused),
        (error(422, "key_reused"), Conflict),
        (error(429, "too_many_wrong_keys", **{"Retry-After": "1"}), AuthenticationFailed),
        (error(500, "internal"), ServerFailed),
        (httpx.Response(200, text="<html>"), BadResponse),
        (httpx.Response(200, json={"other": 1}), BadResponse),
        (httpx.Response(200, json=[]), BadResponse),
        (httpx.Response(301, headers={"Location": "https://elsewhere"}), BadResponse),
        (httpx.Response(404, json={"detail": "of another server"}), BadResponse),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_succeed_is_not_repeated(answer: httpx.Response, kind: type[Exception]) -> None:
    """The first answer is raised as the error of its kind."""
    result, steps = run(answer)
    assert type(result) is kind
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ("no answer", Unreachable),
        (error(503, "unavailable"), ServerFailed),
        (error(429, "rate_limited"), RateLimited),
        (error(409, "in_progress"), Conflict),
    ],
)
def test_attempts_end_before_the_deadline(last: httpx.Response | str, kind: type[Exception]) -> None:
    """All attempts begin before the deadline; the error of the last one is raised."""
    result, steps = run(last, retries=Retries(first_pause=1, longest_pause=4, deadline=30), seconds=1.5)
    assert type(result) is kind
    pauses = [step.seconds for step in steps if isinstance(step, Pause)]
    attempts = [step for step in steps if isinstance(step, Send)]
    assert 30 > sum(pauses) + 1.5 * (len(attempts) - 1) > 20
    assert 0.5 <= pauses[0] <= 1 and 1 <= pauses[1] <= 2 and all(2 <= pause <= 4 for pause in pauses[2:])
    assert all(0 < one.timeout <= 5 for one in attempts) and attempts[-1].timeout <= 30 - 20


def test_retry_after_is_kept() -> None:
    """No attempt comes earlier than the server asks for."""
    _, (_, pause, _) = run(error(503, "unavailable", **{"Retry-After": "7"}), PUBLISHED)
    assert pause.seconds == 7


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    """The error is raised at once, with the seconds."""
    result, steps = run(error(429, "too_many_tickets", **{"Retry-After": "31"}))
    assert isinstance(result, RateLimited) and result.retry_after == 31
    assert len(steps) == 1


@pytest.mark.parametrize("value", ["", "soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT", "٣"])
def test_an_unreadable_retry_after_is_ignored(value: str) -> None:
    """The pause is that of the back-off."""
    response = httpx.Response(503, json={"error": "x", "code": "y"}, headers={"Retry-After": value.encode("utf-8")})
    _, (_, pause, _) = run(response, PUBLISHED)
    assert pause.seconds <= 0.2


def test_without_a_deadline_nothing_is_repeated() -> None:
    """``deadline=0`` turns repeats off."""
    result, steps = run("no answer", PUBLISHED, retries=Retries(deadline=0))
    assert isinstance(result, Unreachable)
    assert len(steps) == 1 and steps[0].timeout == 5


def test_an_error_has_all_that_the_server_states() -> None:
    """Code, sentence, fields, problems, detail and the proxy's request id are attributes."""
    document = {
        "error": "title: Missing data. (1 more problem in items.)",
        "code": "invalid_data",
        "fields": {"title": ["Missing data."]},
        "detail": "why",
        "items": [
            {"index": 0, "field": "data.title", "error": "Missing data.", "code": "invalid_data"},
            {"index": 0, "field": "room", "error": "room is wrong.", "code": "bad_room"},
        ],
    }
    result, _ = run(httpx.Response(422, json=document, headers={"X-Request-ID": "r-7"}))
    assert isinstance(result, ApiError)
    assert (result.code, result.status, result.message) == ("invalid_data", 422, document["error"])
    assert (result.fields, result.detail, result.request_id) == (document["fields"], "why", "r-7")
    assert [(one.index, one.field, one.code) for one in result.problems] == [
        (0, "data.title", "invalid_data"),
        (0, "room", "bad_room"),
    ]
    assert "index 0, room: room is wrong." in str(result)
