"""A server and clients without ``async``, for ``unittest`` and for Django's test cases.

The event loop runs in a thread of its own::

    class VoteTest(unittest.TestCase):
        def test_a_vote(self):
            with roomcast.testing.server([polls]) as server:
                alice = server.connect("alice", rooms=["poll:*"])
                alice.join("poll:1")
                alice.command("poll.vote", {"option": 1}, room="poll:1")
                alice.next("poll.results", data={"votes": [0, 1]})
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast, overload

from ..plugin import Plugin
from ..service import Service
from ..settings import Settings
from .client import Client
from .clock import Clock
from .live_gateway import BrokerName, LiveGateway, running
from .timeouts import EVENT_TIMEOUT

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop: Final = asyncio.new_event_loop()
        self._thread: Final = threading.Thread(target=self._run, name="roomcast test server", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` on the loop, and await its result if it can be awaited."""
        if self._loop.is_closed():
            raise RuntimeError("the server has stopped")

        async def called() -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def close(self) -> None:
        """End the loop, and wait for its thread."""
        self.call(self._loop.shutdown_asyncgens)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncClient:
    """A connected user. The methods do what those of ``Client`` do, and return when it is done."""

    def __init__(self, thread: _LoopThread, client: Client) -> None:
        self._call: Final = thread.call
        self._client: Final = client

    @property
    def welcome(self) -> dict[str, Any]:
        """The data of the last ``connected`` frame."""
        return self._client.welcome

    @property
    def events(self) -> list[dict[str, Any]]:
        """The frames that were received and not taken, oldest first; a copy."""
        return list(self._client.events)

    def join(
        self, room: str, since: str | None = None, *, last: int | None = None, presence: bool = False
    ) -> dict[str, Any]:
        """See ``Client.join``."""
        return self._data(self._client.join, room, since, last=last, presence=presence)

    def leave(self, room: str) -> dict[str, Any]:
        """See ``Client.leave``."""
        return self._data(self._client.leave, room)

    def history(
        self, room: str, *, before: str | None = None, since: str | None = None, limit: int = 50
    ) -> dict[str, Any]:
        """See ``Client.history``."""
        return self._data(self._client.history, room, before=before, since=since, limit=limit)

    def members(self, room: str, after: str | None = None, *, limit: int = 100) -> dict[str, Any]:
        """See ``Client.members``."""
        return self._data(self._client.members, room, after, limit=limit)

    def set_presence(
        self, status: str | None = None, data: Mapping[str, Any] | None = None, *, room: str | None = None
    ) -> dict[str, Any]:
        """See ``Client.set_presence``."""
        return self._data(self._client.set_presence, status, data, room=room)

    def mark_read(self, room: str, event_id: str | None = None) -> dict[str, Any]:
        """See ``Client.mark_read``."""
        return self._data(self._client.mark_read, room, event_id)

    def command(
        self, type: str, data: Mapping[str, Any] | None = None, *, room: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """See ``Client.command``."""
        return self._data(self._client.command, type, data, room=room, key=key)

    def send(self, message: Mapping[str, Any]) -> None:
        """See ``Client.send``."""
        self._call(self._client.send, message)

    def next(
        self,
        type: str | None = None,
        *,
        room: str | None = None,
        data: Mapping[str, Any] | None = None,
        timeout: float = EVENT_TIMEOUT,
    ) -> dict[str, Any]:
        """See ``Client.next``."""
        return self._data(self._client.next, type, room=room, data=data, timeout=timeout)

    def nothing(self, type: str | None = None, *, room: str | None = None) -> None:
        """See ``Client.nothing``."""
        self._call(self._client.nothing, type, room=room)

    def lose(self) -> None:
        """See ``Client.lose``."""
        self._call(self._client.lose)

    def reconnect(self, url: str | None = None) -> dict[str, dict[str, Any]]:
        """See ``Client.reconnect``."""
        return self._data(self._client.reconnect, url)

    def closed(self, *, timeout: float = EVENT_TIMEOUT) -> tuple[int, str]:
        """See ``Client.closed``."""
        return cast("tuple[int, str]", self._call(self._client.closed, timeout=timeout))

    def close(self) -> None:
        """See ``Client.close``."""
        self._call(self._client.close)

    def _data(self, function: Callable[..., Awaitable[dict[str, Any]]], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", self._call(function, *args, **kwargs))


class SyncServer:
    """A running server. ``url``, ``settings`` and ``service`` are as those of ``LiveGateway``.

    ``gateway`` is that object itself, for use with ``call``.
    """

    def __init__(self, thread: _LoopThread, gateway: LiveGateway, clock: Clock | None) -> None:
        self._thread: Final = thread
        self._clock: Final = clock
        self.gateway: Final = gateway
        self.url: Final[str] = gateway.url
        self.settings: Final[Settings] = gateway.settings
        self.service: Final[Service] = gateway.service

    def connect(
        self,
        username: str,
        *,
        rooms: Iterable[str] = (),
        user_id: int | str | None = None,
        node: int | None = None,
        **claims: Any,
    ) -> SyncClient:
        """Connect a user and return the client. See ``LiveGateway.connect``."""
        client = self._thread.call(self.gateway.connect, username, rooms=rooms, user_id=user_id, node=node, **claims)
        return SyncClient(self._thread, client)

    def token(
        self, username: str, *, rooms: Iterable[str] = (), user_id: int | str | None = None, **claims: Any
    ) -> str:
        """Return the token that ``connect`` uses with the same arguments."""
        return self.gateway.token(username, rooms=rooms, user_id=user_id, **claims)

    @overload
    def call(self, function: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    @overload
    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    def call(self, function: Callable[_P, Any], *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """Call a function on the event loop of the server, and return its result; await it if it can be awaited.

        For the service: ``server.call(server.service.publish, "poll.closed", "poll:1", {})``.
        """
        return self._thread.call(function, *args, **kwargs)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; see ``Clock.advance``. Raises ``RuntimeError`` unless ``server`` has ``clock=True``."""
        if self._clock is None:
            raise RuntimeError("the time goes on by itself here; start the server with clock=True")
        self._thread.call(self._clock.advance, seconds)


@contextmanager
def server(
    plugins: Iterable[Plugin] = (), *, broker: BrokerName = "embedded", clock: bool = False, **settings: Any
) -> Iterator[SyncServer]:
    """Run a server on an event loop in a thread, without ``async``. See ``running`` for the arguments and errors.

    With ``clock=True``, the time stands still until ``advance``.
    """
    thread = _LoopThread()
    try:
        chosen = Clock() if clock else None
        context = running(plugins, broker=broker, clock=chosen, **settings)
        gateway = thread.call(context.__aenter__)
        try:
            yield SyncServer(thread, gateway, chosen)
        finally:
            thread.call(context.__aexit__, None, None, None)
    finally:
        thread.close()
