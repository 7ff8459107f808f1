"""Large responses are written over several iterations of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiohttp import web
from serving import GatewayClient

from roomcast.web import response_pace
from roomcast.web.response_pace import MAX_BYTES, SMALL, ResponsePace


async def iterations(*sizes: int) -> list[int]:
    """Return for each response the loop iteration in which it may be written; all are ready in the first one."""
    pace, now = ResponsePace(), 0
    found = [-1] * len(sizes)

    async def prepare(number: int, size: int) -> None:
        await pace(None, web.Response(body=b"x" * size))  # type: ignore[arg-type]
        found[number] = now

    tasks = [asyncio.create_task(prepare(number, size)) for number, size in enumerate(sizes)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        now += 1
    return found


async def test_large_responses_take_turns() -> None:
    """An iteration writes at most MAX_BYTES, and the responses keep their order."""
    found = await iterations(*[MAX_BYTES // 4] * 10)
    assert found == sorted(found)
    assert max(Counter(found).values()) == 4
    assert len(set(found)) == 3


async def test_small_responses_do_not_wait() -> None:
    """They are written at once, even if large ones wait."""
    found = await iterations(*[MAX_BYTES] * 3, SMALL - 1, 0)
    assert found[3:] == [found[0]] * 2
    assert len(set(found[:3])) == 3


async def test_a_response_of_any_size_is_written() -> None:
    """A response that is larger than the limit has an iteration of its own."""
    found = await iterations(3 * MAX_BYTES, 3 * MAX_BYTES)
    assert found[0] < found[1]


async def test_a_server_paces_its_files(gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clients that request a large file all get it."""
    monkeypatch.setattr(response_pace, "MAX_BYTES", 200_000)
    client = await gateway_client()

    async def load() -> int:
        async with client.get("/static/roomcast.js.map", headers={"Accept-Encoding": "identity"}) as response:
            assert response.status == 200
            return len(await response.read())

    sizes = await asyncio.gather(*(load() for _ in range(30)))
    assert len(set(sizes)) == 1 and sizes[0] > SMALL


async def test_streams_and_missing_bodies_do_not_wait() -> None:
    """Only whole bodies are counted."""
    pace = ResponsePace()
    for response in (web.StreamResponse(), web.Response(), web.Response(text="x")):
        await asyncio.wait_for(pace(None, response), 5)  # type: ignore[arg-type]


async def test_a_response_that_is_cancelled_does_not_stop_the_others() -> None:
    """If a client hangs up, the responses that wait behind its own are sent in their order."""
    pace = ResponsePace()
    large = web.Response(body=bytes(MAX_BYTES))
    tasks = [asyncio.create_task(pace(None, large)) for _ in range(4)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.wait_for(asyncio.wait(tasks), 5)
    assert [task.cancelled() for task in tasks] == [False, True, False, True]
    await asyncio.wait_for(pace(None, large), 5)  # type: ignore[arg-type]
