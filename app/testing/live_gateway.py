"""A running server for tests: one node with the embedded broker, or one or two nodes on Redis."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, Literal, get_args

from aiohttp import ClientSession, TCPConnector

from ..auth.identity import make_token
from ..broker.base import Broker
from ..gateway.broker_options import embedded_broker
from ..gateway.gateway import Gateway
from ..gateway.live_events import encode
from ..live_event import LiveOptions, LivePublication
from ..plugin import Plugin
from ..protocol import messages
from ..protocol.user_id import personal_room
from ..registry import Registry
from ..service import Service
from ..settings import Settings
from ..web.port import Address
from ..web.server import Server
from ..workers.process import create_broker
from .client import BARRIER, Client, SendBarrier
from .clock import Clock
from .plugins import registry_with

#: What a server runs on: the embedded broker, a Redis server, or two nodes on a Redis server.
BrokerName = Literal["embedded", "redis", "two_nodes"]
#: All of them, for ``@pytest.fixture(params=BROKERS)``.
BROKERS: Final[tuple[BrokerName, ...]] = get_args(BrokerName)


class LiveNode:
    """A node of a running gateway; see ``LiveGateway`` for the attributes."""

    def __init__(self, server: Server, session: ClientSession) -> None:
        self.url: Final = _url(server)
        self.service: Final[Service] = server.gateway.service
        self.services: Final[Mapping[str, Service]] = server.gateway.services
        self.session: Final = session


class LiveGateway(LiveNode):
    """A running gateway and its server.

    ``url`` is the URL of the server. ``settings`` has the settings, such as the ``api_key`` for the HTTP API.
    ``service`` publishes events and reads rooms, as in lifespans and routes; ``services`` has the services of the
    plugins by their names. ``session`` is an aiohttp client whose base URL is the server:
    ``session.get("/plugins/deploy/live")``. ``nodes`` has these attributes of all nodes; those
    of the gateway itself are those of the first node.
    """

    def __init__(self, servers: Sequence[Server], sessions: Sequence[ClientSession]) -> None:
        super().__init__(servers[0], sessions[0])
        self.settings: Final[Settings] = servers[0].gateway.settings
        self.nodes: Final = [LiveNode(server, session) for server, session in zip(servers, sessions, strict=True)]
        self._barriers: Final[list[SendBarrier]] = [
            partial(_send_barrier, server.gateway.broker) for server in servers if self.settings.redis_url is not None
        ]
        self._next_node: Final = itertools.cycle(range(len(servers)))
        self._clients: list[Client] = []

    async def connect(
        self,
        username: str,
        *,
        rooms: Iterable[str] = (),
        user_id: int | str | None = None,
        node: int | None = None,
        **claims: Any,
    ) -> Client:
        """Connect a user and return the client.

        Args:
            username: The name in the token.
            rooms: The ``rooms`` claim of the token, such as ``["environment:*"]``. By default no room is allowed.
            user_id: The id in the token, by default ``username``.
            node: The index of the node in ``nodes``. By default, the connections go to all nodes in turn.
            claims: Further claims of the token.
        """
        token = self.token(username, rooms=rooms, user_id=user_id, **claims)
        chosen = self.nodes[next(self._next_node) if node is None else node]
        client = await Client.open(self.session, chosen.url, token, barriers=self._barriers)
        self._clients.append(client)
        return client

    def token(
        self, username: str, *, rooms: Iterable[str] = (), user_id: int | str | None = None, **claims: Any
    ) -> str:
        """Return the token that ``connect`` uses with the same arguments."""
        assert self.settings.jwt_secret is not None
        id = username if user_id is None else user_id
        return make_token(self.settings.jwt_keys[0], user_id=id, username=username, rooms=rooms, **claims)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def running(
    plugins: Iterable[Plugin] = (), *, broker: BrokerName = "embedded", clock: Clock | None = None, **settings: Any
) -> AsyncIterator[LiveGateway]:
    """Run a gateway with all installed plugins and ``plugins``.

    ``settings`` are fields of ``Settings``. By default, the secret and the API key are random, and connections are
    closed at once at the end. A ``broker`` on Redis needs the setting ``redis_url``; several gateways can use the same
    server, because each has a random ``redis_prefix`` by default. With a ``clock``, the time stands still until it is
    advanced.

    Raises ``SettingsError`` and ``PluginError`` if the server cannot start, and ``ValueError`` for arguments that
    contradict each other, such as a ``clock`` on Redis.
    """
    if broker not in BROKERS:
        raise ValueError(f"the broker is {broker!r}; it must be one of {', '.join(map(repr, BROKERS))}")
    if broker != "embedded" and "redis_url" not in settings:
        raise ValueError(f"the broker {broker!r} needs the setting redis_url; redis_server() starts a server")
    if broker != "embedded" and clock is not None:
        raise ValueError("a clock needs the embedded broker: the time of a Redis server cannot be controlled")
    defaults: dict[str, Any] = {
        "jwt_secret": secrets.token_urlsafe(48),
        "api_key": secrets.token_urlsafe(),
        "redis_prefix": f"test-{secrets.token_hex(6)}",
        "drain_seconds": 0,
    }
    checked = Settings(**(defaults | settings))
    async with AsyncExitStack() as stack:
        if clock is not None:
            clock.attach()
            stack.callback(clock.release)  # if a node does not start
        servers = [
            await _start(stack, checked, registry_with(plugins), clock)
            for _ in range(2 if broker == "two_nodes" else 1)
        ]
        sessions = [
            await stack.enter_async_context(ClientSession(_url(server), connector=TCPConnector(limit=0)))
            for server in servers
        ]
        gateway = LiveGateway(servers, sessions)
        stack.push_async_callback(gateway.close)
        if clock is not None:
            stack.callback(clock.release)
        yield gateway


async def _start(stack: AsyncExitStack, settings: Settings, loaded: Registry, clock: Clock | None) -> Server:
    """Start a node, which stops at the end of ``stack``."""
    broker: Broker
    broker = create_broker(settings, loaded) if clock is None else embedded_broker(settings, loaded, clock=clock.time)
    server = Server(Gateway(settings, loaded, broker), Address(port=0))
    await server.start()
    stack.push_async_callback(server.stop)
    return server


def _send_barrier(broker: Broker, user_id: int | str, name: str) -> None:
    """Send a live event to a user, which a node delivers after all events that it has announced before."""
    room = personal_room(user_id)
    payload = messages.event(BARRIER, None, {"name": name}, None)
    broker.broadcast(room, encode(LivePublication(BARRIER, LiveOptions(), room, None, None, payload)))


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
