"""Nodes, members and publishers for tests of outages of Redis.

Each node has members, who must stay connected, and publishers that record what was acknowledged. ``Nodes.check``
compares what the members received with what was acknowledged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from redis_servers import wait_for_server
from serving import PATH, User, call, connect, refused, running, token_for

from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.urls import parse
from roomcast.web.server import Server

ROOM = "channel:1"
#: The silence after which Redis counts as hung, and how long a publish waits for it, in seconds.
TIMEOUT = 0.5
WAIT = 2.0
#: The pause between two messages of a publisher, in seconds.
PACE = 0.005


class Member:
    """A user in ``ROOM`` who reads everything. ``frames`` contains the frames since the join."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.frames: list[dict[str, Any]] = []
        #: The ids of the received messages, by their texts.
        self.received: dict[str, str] = {}
        self.times: list[float] = []
        #: The id up to which events may be missing according to a resync.
        self.resynced_to = (0, 0)
        self._last: tuple[int, int] | None = None
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self.user.socket:
            self.take(orjson.loads(text))

    def take(self, frame: dict[str, Any]) -> None:
        """Store a frame. Offsets are consecutive, starting again at each resync, and no message comes twice."""
        self.frames.append(frame)
        if frame["type"] == "resync":
            self.resynced_to = self._last = split(frame["data"]["last_id"])
        elif "id" in frame:
            id, last = split(frame["id"]), self._last
            is_next = last is None or (id[0] >= last[0] and id[1] == last[1] + 1)
            assert is_next, f"{frame} came after {last}"
            self._last = id
        if frame["type"] == "message":
            content = frame["data"]["content"]
            assert content not in self.received, f"{content} came twice"
            self.received[content] = frame["id"]
            self.times.append(time.monotonic())

    def has_or_missed(self, text: str, id: str) -> bool:
        """Return True if the acknowledged message was received, or a resync reported it as missed."""
        return self.received.get(text) == id or (text not in self.received and split(id) <= self.resynced_to)

    @property
    def is_connected(self) -> bool:
        """True if the connection never ended. Raises errors of the reading task."""
        return not self._reading.done() or self._reading.result() is not None

    async def close(self) -> None:
        """Stop reading."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class Publisher(Member):
    """Sends ``<name>:1``, ``<name>:2``, ..., one each ``PACE``, without waiting.

    ``acked`` maps acknowledged numbers to ids; ``failed`` maps refused numbers to the reason. There are no others.
    """

    def __init__(self, user: User) -> None:
        super().__init__(user)
        self.name = user.welcome["data"]["username"]
        self.sent = 0
        self.acked: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self._sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Send until ``end``."""
        self._sending = asyncio.create_task(self._send_continuously())

    async def _send_continuously(self) -> None:
        while True:
            await self.send_next()
            await asyncio.sleep(PACE)

    async def send_next(self, padding: int = 0) -> None:
        """Send the next number."""
        self.sent += 1
        data = {"content": f"{self.name}:{self.sent}", "metadata": {"padding": "x" * padding}}
        await self.user.send("send_message", ROOM, data, id=self.sent)

    def take(self, frame: dict[str, Any]) -> None:
        """Store a frame; answers are stored separately."""
        if frame["type"] == "sent":
            self.acked[frame["id"]] = frame["data"]["event_id"]
        elif frame["type"] == "error":
            assert frame["data"]["code"] == "unavailable", frame
            self.failed[frame["id"]] = frame["data"]["error"]
        else:
            super().take(frame)

    @property
    def state(self) -> str:
        """Describe the state, for error messages."""
        return (
            f"{self.name} sent {self.sent}: {len(self.acked)} acknowledged {list(self.acked.items())[-2:]}, "
            f"{len(self.failed)} failed; received {list(self.received.items())[-3:]}"
        )

    @property
    def pending(self) -> int:
        """The number of messages without an answer."""
        return self.sent - len(self.acked) - len(self.failed)

    async def end(self) -> None:
        """Stop sending, and wait until everything was answered."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await until_true(lambda: not self.pending or not self.is_connected, "all was answered")

    async def close(self) -> None:
        """Stop sending and reading."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await super().close()


async def until_true(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition in this process."""

    async def holds() -> object:
        return condition()

    await wait_for_server(holds, what)


class Nodes:
    """Gateways that share a Redis. Two publishers are on the first, so that batches occur, and one on each other.

    The last one also has a member ``quiet`` that sends nothing.
    """

    def __init__(self, prefix: str, servers: list[Server], publishers: list[Publisher], quiet: Member) -> None:
        self.prefix = prefix
        self.servers = servers
        self.publishers = publishers
        self.quiet = quiet
        self.members = [*publishers, quiet]

    @property
    def failed(self) -> dict[int, str]:
        """The refused messages."""
        return {number: why for publisher in self.publishers for number, why in publisher.failed.items()}

    @property
    def acked(self) -> int:
        """The number of acknowledged messages."""
        return sum(len(publisher.acked) for publisher in self.publishers)

    async def end(self) -> None:
        """Stop sending, and wait until everything was answered and delivered."""
        for publisher in self.publishers:
            await publisher.end()
        await self._send_round()

    async def until_recovered(self, since: float, what: str) -> None:
        """Wait until messages reach all members and all nodes are ready; print the durations from ``since`` on."""
        try:
            await wait_for_server(self._send_round, "a message of each publisher reaches all members")
            caught_up = time.monotonic() - since
            await wait_for_server(self._are_ready, "all nodes are ready")
        except AssertionError as error:
            for one in self.publishers:
                error.add_note(one.state)
            raise
        first = max(next(when for when in one.times if when > since) for one in self.members) - since
        ready = time.monotonic() - since
        print(
            f"\n{what}: first messages after {first:.2f} s, caught up after {caught_up:.2f} s, ready at {ready:.2f} s"
        )

    async def _send_round(self) -> bool:
        """Let each publisher send a message; return True if all were acknowledged and delivered."""
        sent = []
        for publisher in self.publishers:
            await publisher.send_next()
            sent.append((publisher, publisher.sent))
        await until_true(lambda: all(n in p.acked or n in p.failed for p, n in sent), "all messages have an answer")
        if any(number in publisher.failed for publisher, number in sent):
            return False
        texts = [(f"{publisher.name}:{number}", publisher.acked[number]) for publisher, number in sent]
        await until_true(
            lambda: all(one.has_or_missed(*text) for one in self.members for text in texts), "all members have it"
        )
        return all(text in one.received for one in self.members for text, _ in texts)

    async def _are_ready(self) -> bool:
        return all([(await call(server, "GET", "/health/ready"))[0] == 200 for server in self.servers])

    async def until_not_ready(self, part: str) -> None:
        """Wait until every node reports that it is not ready, and names ``part``."""

        async def named() -> bool:
            for server in self.servers:
                status, body = await call(server, "GET", "/health/ready")
                if status != 503 or part not in body["parts"]["broker"]:
                    return False
            return True

        await wait_for_server(named, f"/health/ready names {part}")

    async def check_refusals(self) -> None:
        """Check an outage: pings are answered, new connections closed with 4500, and the API returns 503."""
        await (await self.quiet.user.socket.ping())
        for server in self.servers:
            assert await refused(server, f"{PATH}?token={token_for(77)}") == (4500, "Internal Server Error")
        event = {"type": "task.updated", "room": ROOM, "data": {"task_id": 1, "changes": {}}}
        status, body = await call(self.servers[0], "POST", "/api/v1/events", event)
        assert (status, body["code"]) == (503, "unavailable"), body

    def check(self, *, lost: bool) -> None:
        """Check that all members stayed connected, and each acknowledged message arrived once or was reported lost.

        Losses may be reported only if ``lost`` is True.
        """
        ids = [id for publisher in self.publishers for id in publisher.acked.values()]
        assert len(set(ids)) == len(ids), "one id for two messages"
        for one in self.members:
            assert one.is_connected
            assert lost or one.resynced_to == (0, 0), "a resync, though nothing can have been lost"
            for publisher in self.publishers:
                assert list(publisher.acked) == sorted(publisher.acked), "answers out of order"
                sent = [text for text in one.received if text.startswith(f"{publisher.name}:")]
                assert sent == sorted(sent, key=lambda text: int(text.partition(":")[2])), "out of order"
                for number, id in publisher.acked.items():
                    text = f"{publisher.name}:{number}"
                    assert one.has_or_missed(text, id), (
                        f"{text} was acknowledged as {id} and came as {one.received.get(text)}"
                    )


def split(id: str) -> tuple[int, int]:
    """Return the epoch and the offset of an id."""
    epoch, _, offset = id.partition("-")
    return int(epoch), int(offset)


async def members_are(server: Server, users: set[int]) -> bool:
    """Return True if the HTTP API lists ``users`` as the members of the room."""
    status, body = await call(server, "GET", f"/api/v1/rooms/{ROOM}/members")
    return status == 200 and {member["user_id"] for member in body["members"]} == users


def broker(url: str, prefix: str, **options: Any) -> RedisBroker:
    """Return a node's broker with short timeouts."""
    return RedisBroker(parse(url), RedisOptions(**{"prefix": prefix, "timeout": TIMEOUT, "wait": WAIT, **options}))


@asynccontextmanager
async def nodes(*urls: str, **options: Any) -> AsyncIterator[Nodes]:
    """Start a node for each of ``urls``, all on one Redis; ``options`` are those of the brokers."""
    prefix = f"test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        servers = []
        for url in urls:
            gateway = running(
                broker=broker(url, prefix, **options), ws_message_rate=0, ws_max_buffer=2**26, handler_timeout=60.0
            )
            servers.append(await stack.enter_async_context(gateway))

        async def user(server: Server, number: int) -> User:
            one = await stack.enter_async_context(connect(server, number, f"user-{number}"))
            await one.join(ROOM)
            return one

        users = [await user(server, number) for number, server in enumerate([servers[0], *servers, servers[-1]], 1)]
        ours = Nodes(prefix, servers, [Publisher(one) for one in users[:-1]], Member(users[-1]))
        for member in ours.members:
            stack.push_async_callback(member.close)
        for publisher in ours.publishers:
            publisher.begin()
        await until_true(lambda: ours.acked > 20, "20 messages are acknowledged")
        yield ours
