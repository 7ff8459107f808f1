"""``/metrics``: the names and values of the metrics, and that they contain no user, room or key."""

from __future__ import annotations

import asyncio

import pytest
import websockets
from aiohttp.test_utils import TestClient
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from redis_servers import FreshRedis
from serving import KEY, PATH, PATIENCE, SECRET, WITH_KEY, GatewayClient, connect, refused, token_for, url
from wire import Peer

from roomcast import errors
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse as parse_url
from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.gateway.delivery import DELIVERY_BOUNDS
from roomcast.gateway.gateway import Gateway
from roomcast.transport.connection import LOST, SILENT
from roomcast.web.app_state import GATEWAY
from roomcast.web.ops import metrics

pytestmark = pytest.mark.usefixtures("fresh_metrics")

Samples = dict[tuple[str, tuple[str, ...]], float]


async def scrape(client: TestClient) -> Samples:
    """Return all samples by name, without ``roomcast_``, and values of the labels."""
    response = await client.get("/metrics")
    assert response.status == 200
    samples: Samples = {}
    for family in parse(await response.text()):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name.removeprefix("roomcast_"), tuple(sample.labels.values()))
            assert key not in samples
            samples[key] = sample.value
    return samples


async def value(client: TestClient, name: str, *labels: str) -> float:
    """Return one sample."""
    return (await scrape(client))[name, labels]


async def publish(client: TestClient, events: object) -> int:
    """Publish ``events``; return the status."""
    return (await client.post("/api/v1/events", json=events, headers=WITH_KEY)).status


async def until(client: TestClient, name: str, *labels: str, wanted: float) -> None:
    """Wait until a sample has the value ``wanted``."""
    async with asyncio.timeout(PATIENCE):
        while await value(client, name, *labels) != wanted:
            await asyncio.sleep(0)


async def test_the_format_is_the_requested_one(gateway_client: GatewayClient):
    """Prometheus gets its text format, or OpenMetrics if it asks for that. No key is needed."""
    client = await gateway_client()
    for accept, content_type, read in [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
    ]:
        response = await client.get("/metrics", headers={"Accept": accept})
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(content_type)
        assert "roomcast_connections" in {family.name for family in read(await response.text())}


async def test_an_unknown_format_is_ignored(gateway_client: GatewayClient):
    """A client that asks for an invalid or unknown format gets the text format."""
    client = await gateway_client()
    for accept in ("application/openmetrics-text; version=new", "text/plain; version=x", ";;,", "image/png"):
        response = await client.get("/metrics", headers={"Accept": accept})
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")


class Clock:
    """The module ``time`` for ``metrics``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time that the test has set."""
        return self.now


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[Gateway]:
    """Count how often the metrics are collected."""
    found: list[Gateway] = []
    original = metrics.collect

    async def collect(gateway: Gateway) -> list[Metric]:
        found.append(gateway)
        return await original(gateway)

    monkeypatch.setattr(metrics, "collect", collect)
    return found


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_requests_of_one_second_share_the_metrics(
    gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch, collections: list[Gateway], accept: str
):
    """They are collected once for all requests, also for those that arrive meanwhile, then again a second later."""
    monkeypatch.setattr(metrics, "MAX_AGE", 1.0)
    monkeypatch.setattr(metrics, "time", clock := Clock())
    client = await gateway_client()
    for second in (1, 2, 3):
        for _ in range(2):
            responses = await asyncio.gather(*(client.get("/metrics", headers={"Accept": accept}) for _ in range(10)))
            assert len({await response.read() for response in responses}) == 1
            assert len(collections) == second
            clock.now += 0.4
        clock.now += 0.3


async def test_each_format_is_collected_once(
    gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch, collections: list[Gateway]
):
    """Clients choose between two formats. What they write besides does not matter."""
    monkeypatch.setattr(metrics, "MAX_AGE", 1000.0)
    client = await gateway_client()
    types = set()
    for number in range(20):
        for accept in (
            f"application/openmetrics-text; version=1.0.{number}; escaping=allow-utf-8",
            f"text/plain; version=1.0.{number}; escaping=values, image/{number}",
            "," * 8000,
        ):
            response = await client.get("/metrics", headers={"Accept": accept})
            assert response.status == 200
            types.add(response.headers["Content-Type"])
    assert len(types) == 2
    assert len(collections) == 2


async def test_a_failed_collection_is_repeated(
    gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch, collections: list[Gateway]
):
    """A failure answers only the request that it happened in."""
    monkeypatch.setattr(metrics, "MAX_AGE", 1000.0)
    client = await gateway_client()
    with monkeypatch.context() as broken:

        async def fail(gateway: Gateway) -> list[Metric]:
            raise OSError("no more files")

        broken.setattr(metrics, "collect", fail)
        assert (await client.get("/metrics")).status == 500
    assert (await client.get("/metrics")).status == 200
    assert len(collections) == 1


async def test_a_single_process_has_no_worker_metrics(gateway_client: GatewayClient):
    """Its metrics have no worker label, and no number of silent workers."""
    text = await (await (await gateway_client()).get("/metrics")).text()
    assert "roomcast_connections 0.0\n" in text
    assert "worker" not in text


async def test_metrics_reveal_no_names(gateway_client: GatewayClient):
    """The metrics contain no user, room, message, token or key."""
    client = await gateway_client()
    async with connect(client, 4711, "alice") as alice:
        await alice.join("channel:secret")
        await alice.send("send_message", "channel:secret", {"content": "hush"})
        await alice.recv_type("message")
        await alice.send("mystery", id="mystery")
        await alice.recv_type("error")
        text = await (await client.get("/metrics")).text()
    for word in ("alice", "4711", "secret", "hush", "mystery", KEY, SECRET, token_for()[:30]):
        assert word not in text


async def test_gauges_rise_and_fall(gateway_client: GatewayClient):
    """The gauges count the current connections, users, rooms and memberships."""
    client = await gateway_client()
    names = ("connections", "users", "rooms", "members")

    async def now() -> tuple[float, ...]:
        samples = await scrape(client)
        return tuple(samples[name, ()] for name in names)

    assert await now() == (0, 0, 0, 0)
    async with connect(client) as alice, connect(client) as tab, connect(client, 2, "bob") as bob:
        assert await now() == (3, 2, 0, 0)
        for one in (alice, tab, bob):
            await one.join("channel:1")
        await bob.join("channel:2")
        assert await now() == (3, 2, 2, 4)
    await until(client, "connections", wanted=0)
    assert await now() == (0, 0, 0, 0)


async def test_messages_and_events_are_counted(gateway_client: GatewayClient):
    """Messages from clients, events from the broker and from backends, and deliveries to members."""
    client = await gateway_client()
    names = ("messages_received_total", "events_total", "http_events_total", "deliveries_total")

    async def counted() -> list[float]:
        samples = await scrape(client)
        return [samples[name, ()] for name in names]

    async with connect(client) as alice, connect(client, 2, "bob") as bob:
        await alice.join("task:1")
        await alice.recv_type("user_joined")
        await bob.join("task:1")
        await alice.recv_type("user_joined")
        assert await counted() == [2, 2, 0, 3]
        event = {"type": "task.deleted", "room": "task:1", "data": {"task_id": 1}}
        assert await publish(client, [event, event, {**event, "room": "task:2"}]) == 200
        for one in (alice, bob):
            await one.recv_type("task.deleted")
            await one.recv_type("task.deleted")
        assert await counted() == [2, 4, 3, 7]
        notice = {"type": "notification.new", "room": "user:1", "data": {"title": "A", "message": "B"}}
        assert await publish(client, notice) == 200
        await alice.recv_type("notification.new")
        assert await counted() == [2, 5, 4, 8]
        assert await publish(client, [event, {**event, "room": "x"}]) == 422
        await alice.send("ping")
        await alice.recv_type("pong")
        assert await counted() == [3, 5, 4, 8]


async def test_delivery_times_are_a_histogram(gateway_client: GatewayClient):
    """Each bucket includes the ones below it, the last one all deliveries; the sum is in seconds."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client, 2, "bob") as bob:
        await alice.join("task:1")
        await bob.join("task:1")
        await bob.recv_type("user_joined")
        samples = await scrape(client)
    buckets = [samples["delivery_seconds_bucket", (f"{bound}",)] for bound in DELIVERY_BOUNDS]
    buckets.append(samples["delivery_seconds_bucket", ("+Inf",)])
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples["delivery_seconds_count", ()] == 3
    assert samples["delivery_seconds_sum", ()] > 0


async def test_errors_are_counted_by_code(gateway_client: GatewayClient):
    """Every code begins with 0, and no other code has a sample."""
    client = await gateway_client()
    codes = {labels[0] for name, labels in await scrape(client) if name == "errors_total"}
    assert codes == {*ERROR_CODES, "plugin"}
    async with connect(client) as alice:
        for type, room in (("no_such", None), ("join_room", "x"), ("join_room", "y")):
            await alice.send(type, room)
            await alice.recv_type("error")
    samples = await scrape(client)
    counted = {labels[0]: count for (name, labels), count in samples.items() if name == "errors_total" and count}
    assert counted == {"unknown_type": 1, "bad_room": 2}


async def test_every_end_of_a_connection_is_there_from_the_start(gateway_client: GatewayClient):
    """Each close of the server and of clients begins with 0, so that rates include the first one."""
    client = await gateway_client()
    ends = {labels: n for (name, labels), n in (await scrape(client)).items() if name == "connection_ends_total"}
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
async def test_a_client_cannot_create_labels(gateway_client: GatewayClient, code: int, reason: str, label: str):
    """A client may close with any code and text. All other codes than the usual ones share a label."""
    client = await gateway_client()
    before = (await scrape(client)).keys()
    async with connect(client) as alice:
        await alice.socket.close(code, reason)
    await until(client, "connection_ends_total", label, "Closed By Client", wanted=1)
    assert (await scrape(client)).keys() == before


async def test_ends_are_counted_by_code_and_reason(gateway_client: GatewayClient):
    """Refused, disconnected, forbidden, invalid, lost and excess connections each have a label."""
    client = await gateway_client(max_connections_per_user=1)

    async def ended(end: errors.Close) -> None:
        await until(client, "connection_ends_total", str(end.code), end.reason, wanted=1)

    await refused(client, PATH)
    await ended(errors.AUTHENTICATION_FAILED)
    async with connect(client, 1) as alice:
        await refused(client, f"{PATH}?token={token_for()}")
        await ended(errors.TOO_MANY_CONNECTIONS)
        await client.delete("/api/v1/users/1/connections", headers=WITH_KEY)
        await alice.closed()
    await ended(errors.DISCONNECTED)
    async with connect(client, 2, "bob", rooms=[]) as bob:
        await bob.send("join_room", "channel:1")
        assert await bob.closed() == (4403, "Forbidden")
    await ended(errors.FORBIDDEN)
    async with connect(client, 3, "carol") as carol:
        await carol.socket.send(b"binary")
        assert (await carol.closed())[0] == 1003
    await ended(errors.UNSUPPORTED_DATA)
    async with connect(client, 4, "dave") as dave:
        dave.socket.transport.abort()
        with pytest.raises(websockets.ConnectionClosed):
            await dave.recv()
    await ended(LOST)
    await until(client, "connections", wanted=0)


async def test_an_incomplete_handshake_is_not_counted(gateway_client: GatewayClient):
    """An incomplete handshake is neither a connection nor the end of one."""
    client = await gateway_client()
    peer = await Peer.connect(("127.0.0.1", client.port))
    await peer.send(b"GET /api/v1/ws/connect HTTP/1.1\r\n")
    assert await value(client, "connections") == 0
    peer.close()
    samples = await scrape(client)
    assert not any(count for (name, _), count in samples.items() if name == "connection_ends_total")


async def test_the_metrics_of_the_process_are_included(gateway_client: GatewayClient):
    """Memory, CPU time, open files, garbage collections and versions."""
    client = await gateway_client()
    samples = await scrape(client)
    names = {name for name, _ in samples}
    assert names >= {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "info"}
    assert names >= {"python_info", "python_gc_collections_total"}
    assert samples["process_open_fds", ()] > 1


async def test_draining_is_a_metric(gateway_client: GatewayClient):
    """The metric is 0 until the node drains its clients, then 1."""
    client = await gateway_client()
    assert await value(client, "draining") == 0
    await client.app[GATEWAY].drain()
    assert await value(client, "draining") == 1


async def test_two_servers_in_one_process_have_separate_metrics(gateway_client: GatewayClient):
    """Each counts its own connections."""
    one, other = await gateway_client(), await gateway_client()
    async with connect(one):
        assert await value(one, "connections") == 1
        assert await value(other, "connections") == 0
    assert url(one, "/metrics") != url(other, "/metrics")


async def test_redis_has_metrics_if_it_is_used(gateway_client: GatewayClient, fresh_redis: FreshRedis):
    """Redis has metrics of its state, waiting calls, buffered bytes and resyncs. The embedded broker has none."""
    assert not [name for name, _ in await scrape(await gateway_client()) if name.startswith("redis")]
    redis = await fresh_redis()
    client = await gateway_client(broker=RedisBroker(parse_url(redis.url), RedisOptions(wait=60.0)))
    async with connect(client) as alice:
        await alice.join("channel:1")
        await alice.send("send_message", "channel:1", {"content": "Hello"}, id="1")
        await alice.recv_type("sent")
        await until(client, "redis_buffer_bytes", wanted=0)
        samples = await scrape(client)
        redis_samples = {name: value for (name, _), value in samples.items() if name.startswith("redis")}
        assert (redis_samples.pop("redis_up"), redis_samples.pop("redis_writable")) == (1, 1)
        counted = (
            "redis_waiting",
            "redis_buffer_bytes",
            "redis_repaired_events_total",
            "redis_dropped_broadcasts_total",
            "redis_resyncs_total",
        )
        assert redis_samples == dict.fromkeys((*counted, "redis_refused_commands_total"), 0)
        redis.kill()
        await until(client, "redis_up", wanted=0)
        await alice.send("send_message", "channel:1", {"content": "Is anybody there?"})
        await until(client, "redis_waiting", wanted=1)
        assert await value(client, "redis_buffer_bytes") > len("Is anybody there?")
        await redis.start()
        await until(client, "redis_up", wanted=1)
        await until(client, "redis_waiting", wanted=0)
        async with asyncio.timeout(PATIENCE):  # for at least one of the subscribed rooms
            while not await value(client, "redis_resyncs_total"):
                await asyncio.sleep(0.01)
        assert await value(client, "redis_buffer_bytes") == 0
