"""How the relay treats the answers of the HTTP API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from roomcast.relay import publisher as module
from roomcast.relay.metrics import RelayMetrics
from roomcast.relay.publisher import Publisher, Refusal

#: Answers a list of events.
Answer = Callable[[list[Any]], web.StreamResponse]


def event(number: int) -> bytes:
    """Return an event."""
    return orjson.dumps({"n": number})


def confirm(events: list[Any]) -> web.Response:
    """Confirm all events."""
    return web.json_response({"ids": [f"1-{number}" for number in range(len(events))]})


@asynccontextmanager
async def publishing(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, key_ttl: float = 300.0
) -> AsyncIterator[tuple[Publisher, list[list[int]], RelayMetrics]]:
    """Run a server with this answer; yield a publisher, the numbers of the events in each request, and the metrics."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)
    requests: list[list[int]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer key"
        events = orjson.loads(await request.read())
        requests.append([each["n"] for each in events])
        return answer(events)

    app = web.Application(client_max_size=2**21)
    app.router.add_post("/api/v1/events", handle)
    metrics = RelayMetrics()
    async with TestServer(app) as server, Publisher(str(server.make_url("")), "key", key_ttl, metrics) as publisher:
        yield publisher, requests, metrics


def refuse(status: int, code: str, items: list[tuple[int, str]] | None = None) -> web.Response:
    """Return a refusal, perhaps with the problems of single events."""
    body: dict[str, Any] = {"error": "sentence", "code": code}
    if items is not None:
        body["items"] = [{"index": i, "field": "room", "error": "wrong", "code": each} for i, each in items]
    return web.json_response(body, status=status)


async def test_requests_keep_to_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has at most 1,000 events and 1 MB. They are sent one after the other, in order."""
    large = [orjson.dumps({"n": number, "text": "x" * 400_000}) for number in range(5)]
    async with publishing(confirm, monkeypatch) as (publisher, requests, metrics):
        assert await publisher.publish([event(number) for number in range(2500)]) == {}
        assert [len(one) for one in requests] == [1000, 1000, 500]
        assert [number for one in requests for number in one] == [*range(2500)]
        requests.clear()
        assert await publisher.publish(large) == {}
        assert requests == [[0, 1], [2, 3], [4]]
        assert metrics.published._value.get() == 2505
        assert await publisher.publish([]) == {}


async def test_an_event_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at once, and its neighbours are published."""
    events = [event(0), orjson.dumps({"n": 1, "text": "x" * 2**20}), event(2)]
    async with publishing(confirm, monkeypatch) as (publisher, requests, _):
        refused = await publisher.publish(events)
        assert refused[1].code == "body_too_large" and list(refused) == [1]
        assert requests == [[0], [2]]


@pytest.mark.parametrize(("status", "code"), [(422, "invalid_events"), (403, "forbidden_room")])
async def test_refused_events_are_left_out(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> None:
    """The events that the answer names are refused, and the others are sent again in order."""

    def answer(events: list[Any]) -> web.Response:
        bad = [(index, "bad_room") for index, each in enumerate(events) if each["n"] in (1, 3)]
        return refuse(status, code, bad) if bad else confirm(events)

    async with publishing(answer, monkeypatch) as (publisher, requests, metrics):
        refused = await publisher.publish([event(number) for number in range(5)])
        assert refused == {1: Refusal("bad_room", "room: wrong"), 3: Refusal("bad_room", "room: wrong")}
        assert requests == [[0, 1, 2, 3, 4], [0, 2, 4]]
        assert metrics.registry.get_sample_value("roomcast_relay_failed_total", {"code": "bad_room"}) == 2
        assert metrics.published._value.get() == 3


async def test_a_refusal_without_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that is the cause is found by halves. No event overtakes an earlier one."""
    published: list[int] = []

    def answer(events: list[Any]) -> web.Response:
        if any(each["n"] == 5 for each in events):
            return refuse(400, "bad_json")
        published.extend(each["n"] for each in events)
        return confirm(events)

    async with publishing(answer, monkeypatch) as (publisher, _, _):
        assert await publisher.publish([event(number) for number in range(9)]) == {5: Refusal("bad_json", "sentence")}
    assert published == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("poison", [0, 5, 8])
async def test_an_event_with_which_the_server_fails(monkeypatch: pytest.MonkeyPatch, poison: int) -> None:
    """It is found by halves and set aside after ten attempts, so that the others are published, in order."""
    published: list[int] = []

    def answer(events: list[Any]) -> web.Response:
        if any(each["n"] == poison for each in events):
            return refuse(500, "internal")
        published.extend(each["n"] for each in events)
        return confirm(events)

    async with publishing(answer, monkeypatch) as (publisher, requests, metrics):
        refused = await publisher.publish([event(number) for number in range(9)])
        assert refused == {poison: Refusal("internal", "The server failed 10 times; its log says why.")}
        assert requests.count([poison]) == 10
        assert metrics.registry.get_sample_value("roomcast_relay_failed_total", {"code": "internal"}) == 1
    assert published == [number for number in range(9) if number != poison]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_server_that_fails_for_a_while(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Failures with other answers in between set nothing aside."""
    codes = [(500, "internal"), (500, "internal"), (503, "unavailable")] * 8

    def answer(events: list[Any]) -> web.Response:
        return refuse(*codes.pop(0)) if codes else confirm(events)

    async with publishing(answer, monkeypatch) as (publisher, requests, _):
        assert await publisher.publish([event(number) for number in range(count)]) == {}
        assert requests == [[*range(count)]] * 25


@pytest.mark.parametrize(
    "first",
    [
        refuse(401, "unauthorized"),
        refuse(403, "missing_scope"),
        refuse(404, "no_such_path"),
        refuse(409, "in_progress"),
        refuse(429, "too_many_wrong_keys"),
        refuse(500, "internal"),
        refuse(503, "unavailable"),
        web.Response(status=422, text="another server"),
        web.Response(status=413, text="a proxy"),
        web.Response(text="<html>"),
        web.json_response({"ids": []}),
        web.json_response([]),
    ],
    ids=lambda response: f"{response.status} {(response.text or '')[-20:]}",
)
async def test_other_answers_set_nothing_aside(monkeypatch: pytest.MonkeyPatch, first: web.Response) -> None:
    """A wrong key, a wrong URL, a proxy or a failing server makes the events wait."""
    answers = [lambda events: first, confirm]
    async with publishing(lambda events: answers.pop(0)(events), monkeypatch) as (publisher, requests, metrics):
        assert await publisher.publish([event(1)]) == {}
        assert requests == [[1], [1]]
        assert metrics.retries._value.get() == 1


@pytest.mark.parametrize("status", [503, 401])
async def test_repeats_after_the_lifetime_of_keys(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """If the first request may have published the events, they count as possible duplicates, once, and are sent."""
    answers = [refuse(status, "code"), refuse(401, "code"), refuse(401, "code")]
    caplog.set_level(logging.WARNING)
    async with publishing(
        lambda events: answers.pop(0) if answers else confirm(events), monkeypatch, key_ttl=0.001
    ) as (publisher, requests, metrics):
        assert await publisher.publish([event(1), event(2)]) == {}
        assert len(requests) == 4
        is_unknown = status == 503
        assert metrics.possible_duplicates._value.get() == (2 if is_unknown else 0)
        assert any("published twice" in line for line in caplog.messages) == is_unknown


async def test_a_connection_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is unknown, so the events are sent again, and count after the lifetime of their keys."""
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await reader.read(65536)
        if requests > 1:
            body = b'{"ids":["1-1"]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        writer.close()

    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    metrics = RelayMetrics()
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Publisher(url, "k", 0.001, metrics) as publisher:
        assert await publisher.publish([event(1)]) == {}
    assert requests == 2
    assert metrics.possible_duplicates._value.get() == 1
