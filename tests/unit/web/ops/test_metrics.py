"""The metrics: what is counted, under which names, and that they name nobody."""

from __future__ import annotations

import asyncio

import pytest
import websockets
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from redis_servers import FreshRedis
from serving import KEY, PATH, PATIENCE, SECRET, Serve, answer, call, connect, refused, token_for, url
from wire import Peer

from roomcast import errors
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse as parse_url
from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.gateway.delivery import DELIVERY_BOUNDS
from roomcast.transport.connection import LOST, SILENT
from roomcast.web.server import Server

Samples = dict[tuple[str, tuple[str, ...]], float]


async def scrape(server: Server) -> Samples:
    """Every sample by its name, without ``roomcast_``, and the values of its labels."""
    async with answer(server, "GET", "/metrics", key=None) as response:
        assert response.status == 200
        text = await response.text()
    samples: Samples = {}
    for family in parse(text):
        assert family.documentation
        for sample in family.samples:
            place = (sample.name.removeprefix("roomcast_"), tuple(sample.labels.values()))
            assert place not in samples
            samples[place] = sample.value
    return samples


async def value(server: Server, name: str, *labels: str) -> float:
    """One sample."""
    return (await scrape(server))[name, labels]


async def until(server: Server, name: str, *labels: str, wanted: float) -> None:
    """Wait until a sample has the value; what has to happen on the server first takes it a turn or two."""
    async with asyncio.timeout(PATIENCE):
        while await value(server, name, *labels) != wanted:
            await asyncio.sleep(0)


async def test_it_is_open_and_says_its_format(serve: Serve):
    """Prometheus gets its text format, or OpenMetrics if it asks for that; no key is wanted."""
    server = await serve()
    for accept, content_type, read in [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
    ]:
        async with answer(server, "GET", "/metrics", key=None, headers={"Accept": accept}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith(content_type)
            assert "roomcast_connections" in {family.name for family in read(await response.text())}


async def test_a_format_that_nobody_knows_is_the_usual_one(serve: Serve):
    """A client that asks for nonsense gets the text format, and not an error."""
    server = await serve()
    for accept in ("application/openmetrics-text; version=new", "text/plain; version=x", ";;,", "image/png"):
        async with answer(server, "GET", "/metrics", key=None, headers={"Accept": accept}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_one_process_alone_is_no_worker(serve: Serve):
    """Its samples have no label for it, and there are no others that could be silent."""
    async with answer(await serve(), "GET", "/metrics", key=None) as response:
        text = await response.text()
    assert "roomcast_connections 0.0\n" in text
    assert "worker" not in text


async def test_it_tells_of_nobody(serve: Serve):
    """No user, no room, no token and no key is in it, whatever they did."""
    server = await serve()
    async with connect(server, 4711, "alice") as alice:
        await alice.join("channel:secret")
        await alice.send("send_message", "channel:secret", {"content": "hush"})
        await alice.recv_type("message")
        await alice.send("mystery", id="mystery")
        await alice.recv_type("error")
        async with answer(server, "GET", "/metrics", key=None) as response:
            text = await response.text()
    for word in ("alice", "4711", "secret", "hush", "mystery", KEY, SECRET, token_for()[:30]):
        assert word not in text


async def test_what_is_there_now(serve: Serve):
    """Connections, users, rooms and memberships rise and fall."""
    server = await serve()
    names = ("connections", "users", "rooms", "members")

    async def now() -> tuple[float, ...]:
        samples = await scrape(server)
        return tuple(samples[name, ()] for name in names)

    assert await now() == (0, 0, 0, 0)
    async with connect(server) as alice, connect(server) as tab, connect(server, 2, "bob") as bob:
        assert await now() == (3, 2, 0, 0)
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await bob.join("channel:2")
        assert await now() == (3, 2, 2, 4)
    await until(server, "connections", wanted=0)
    assert await now() == (0, 0, 0, 0)


async def test_messages_in_and_out(serve: Serve):
    """What came from clients, what the broker told of, what backends published, what was written to members."""
    server = await serve()
    names = ("messages_received_total", "events_total", "http_events_total", "deliveries_total")

    async def counted() -> list[float]:
        samples = await scrape(server)
        return [samples[name, ()] for name in names]

    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.join("task:1")
        await alice.recv_type("user_joined")
        await bob.join("task:1")
        await alice.recv_type("user_joined")
        assert await counted() == [2, 2, 0, 3]
        event = {"type": "task.deleted", "room": "task:1", "data": {"task_id": 1}}
        assert (await call(server, "POST", "/api/v1/events", [event, event, {**event, "room": "task:2"}]))[0] == 200
        for one in (alice, bob):
            await one.recv_type("task.deleted")
            await one.recv_type("task.deleted")
        assert await counted() == [2, 4, 3, 7]
        notice = {"type": "notification.new", "room": "user:1", "data": {"title": "A", "message": "B"}}
        assert (await call(server, "POST", "/api/v1/events", notice))[0] == 200
        await alice.recv_type("notification.new")
        assert await counted() == [2, 5, 4, 8]
        assert (await call(server, "POST", "/api/v1/events", [event, {**event, "room": "x"}]))[0] == 422
        await alice.send("ping")
        await alice.recv_type("pong")
        assert await counted() == [3, 5, 4, 8]


async def test_delivery_times_are_a_histogram(serve: Serve):
    """Each bucket holds those below it, the last one all, and the sum is of seconds."""
    server = await serve()
    async with connect(server) as alice, connect(server, 2, "bob") as bob:
        await alice.join("task:1")
        await bob.join("task:1")
        await bob.recv_type("user_joined")
        samples = await scrape(server)
    buckets = [samples["delivery_seconds_bucket", (f"{bound}",)] for bound in DELIVERY_BOUNDS]
    buckets.append(samples["delivery_seconds_bucket", ("+Inf",)])
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples["delivery_seconds_count", ()] == 3
    assert samples["delivery_seconds_sum", ()] > 0


async def test_errors_are_counted_by_code(serve: Serve):
    """Every code is there from the start, at 0, and no other ever."""
    server = await serve()
    codes = {labels[0] for name, labels in await scrape(server) if name == "errors_total"}
    assert codes == {*ERROR_CODES, "plugin"}
    async with connect(server) as alice:
        for type, room in (("no_such", None), ("join_room", "x"), ("join_room", "y")):
            await alice.send(type, room)
            await alice.recv_type("error")
    samples = await scrape(server)
    counted = {labels[0]: count for (name, labels), count in samples.items() if name == "errors_total" and count}
    assert counted == {"unknown_type": 1, "bad_room": 2}


async def test_every_way_to_end_is_there_from_the_start(serve: Serve):
    """Each close of the server's with its reason, and what clients do, at 0: a rate misses no first time."""
    server = await serve()
    ends = {labels: n for (name, labels), n in (await scrape(server)).items() if name == "connection_ends_total"}
    expected = {(str(end.code), end.reason) for end in (*CLOSES, LOST, SILENT) if end.reason}
    expected |= {(code, "Closed By Client") for code in ("1000", "1001", "1005", "other")}
    assert ends == dict.fromkeys(expected, 0)


@pytest.mark.parametrize(
    ("code", "reason", "label"),
    [
        (1000, "", "1000"),
        (1000, "bye", "1000"),
        (1001, "the tab was closed", "1001"),
        (4000, "an application's own", "other"),
        (3999, "", "other"),
        (4401, "not the server's words", "other"),
    ],
)
async def test_what_a_client_says_as_it_closes_makes_no_label(serve: Serve, code: int, reason: str, label: str):
    """A client may close with any code and text; to the metrics it is one of four."""
    server = await serve()
    before = (await scrape(server)).keys()
    async with connect(server) as alice:
        await alice.socket.close(code, reason)
    await until(server, "connection_ends_total", label, "Closed By Client", wanted=1)
    assert (await scrape(server)).keys() == before


async def test_ends_are_told_apart(serve: Serve):
    """Refused, disconnected, forbidden, wrong frames, lost, too many: each under its own code and reason."""
    server = await serve(max_connections_per_user=1)

    async def ended(end: errors.Close) -> None:
        await until(server, "connection_ends_total", str(end.code), end.reason, wanted=1)

    await refused(server, PATH)
    await ended(errors.AUTHENTICATION_FAILED)
    async with connect(server, 1) as alice:
        await refused(server, f"{PATH}?token={token_for()}")
        await ended(errors.TOO_MANY_CONNECTIONS)
        await call(server, "DELETE", "/api/v1/users/1/connections")
        await alice.closed()
    await ended(errors.DISCONNECTED)
    async with connect(server, 2, "bob", rooms=[]) as bob:
        await bob.send("join_room", "channel:1")
        assert await bob.closed() == (4403, "Forbidden")
    await ended(errors.FORBIDDEN)
    async with connect(server, 3, "carol") as carol:
        await carol.socket.send(b"binary")
        assert (await carol.closed())[0] == 1003
    await ended(errors.UNSUPPORTED_DATA)
    async with connect(server, 4, "dave") as dave:
        dave.socket.transport.abort()
        with pytest.raises(websockets.ConnectionClosed):
            await dave.recv()
    await ended(LOST)
    await until(server, "connections", wanted=0)


async def test_a_half_sent_handshake_is_no_connection(serve: Serve):
    """Who never became a client is not counted as one that ended."""
    server = await serve()
    peer = await Peer.connect(("127.0.0.1", server.port))
    await peer.send(b"GET /api/v1/ws/connect HTTP/1.1\r\n")
    assert await value(server, "connections") == 0
    peer.close()
    samples = await scrape(server)
    assert not any(count for (name, _), count in samples.items() if name == "connection_ends_total")


async def test_the_process_is_there_too(serve: Serve):
    """Memory, CPU, open files, collections, and which versions run."""
    server = await serve()
    samples = await scrape(server)
    names = {name for name, _ in samples}
    assert names >= {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "info"}
    assert names >= {"python_info", "python_gc_collections_total"}
    assert samples["process_open_fds", ()] > 1


async def test_draining_shows(serve: Serve):
    """0 until the server sends its clients away, then 1."""
    server = await serve()
    assert await value(server, "draining") == 0
    await server.gateway.drain()
    assert await value(server, "draining") == 1


async def test_two_servers_of_one_process_do_not_mix(serve: Serve):
    """Each counts for itself, and a second one can be started."""
    one, other = await serve(), await serve()
    async with connect(one):
        assert await value(one, "connections") == 1
        assert await value(other, "connections") == 0
    assert url(one, "/metrics") != url(other, "/metrics")


async def test_redis_is_told_of_where_it_is_used(serve: Serve, fresh_redis: FreshRedis):
    """Whether it is there, what waits for it, and what was lost; with the embedded broker there is nothing of it."""
    assert not [name for name, _ in await scrape(await serve()) if name.startswith("redis")]
    redis = await fresh_redis()
    server = await serve(broker=RedisBroker(parse_url(redis.url), RedisOptions(wait=60.0)))
    async with connect(server) as alice:
        await alice.join("channel:1")
        await alice.recv_type("user_joined")  # until then its announcement is on its way to Redis
        await until(server, "redis_buffer_bytes", wanted=0)
        samples = await scrape(server)
        redis_samples = {name: value for (name, _), value in samples.items() if name.startswith("redis")}
        assert redis_samples.pop("redis_up") == 1
        counted = ("redis_waiting", "redis_buffer_bytes", "redis_repaired_events_total", "redis_resyncs_total")
        assert redis_samples == dict.fromkeys(counted, 0)
        redis.kill()
        await until(server, "redis_up", wanted=0)
        await alice.send("send_message", "channel:1", {"content": "Is anybody there?"})
        await until(server, "redis_waiting", wanted=1)
        assert await value(server, "redis_buffer_bytes") > len("Is anybody there?")
        await redis.start()
        await until(server, "redis_up", wanted=1)
        await until(server, "redis_waiting", wanted=0)
        async with asyncio.timeout(PATIENCE):  # of the rooms that are subscribed, at least this one
            while not await value(server, "redis_resyncs_total"):
                await asyncio.sleep(0.01)
        assert await value(server, "redis_buffer_bytes") == 0
