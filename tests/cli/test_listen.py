"""Listening: nothing is missed while a connection is down, or it is said."""

import asyncio
from contextlib import asynccontextmanager, suppress

from roomcast import registry
from roomcast.auth.identity import make_token
from roomcast.broker.memory import MemoryBroker
from roomcast.cli.listen import Listener, line
from roomcast.cli.websocket_client import target
from roomcast.errors import SERVICE_RESTART
from roomcast.gateway.gateway import Gateway
from roomcast.settings import Settings
from roomcast.web.server import Address, Server

SECRET = "a secret of the tests, long enough for anything"
PATIENCE = 20.0


@asynccontextmanager
async def running():
    """A gateway that listens; its server knows the port."""
    gateway = Gateway(Settings(jwt_secret=SECRET, drain_seconds=0), registry.load(), MemoryBroker(100, 60))
    server = Server(gateway, Address(port=0))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Told:
    """Lines, of which one can be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        task = asyncio.get_running_loop().create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def wait_for(self, words: str) -> None:
        """Wait until a line has ``words``."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: any(words in text for text in self.lines))


@asynccontextmanager
async def listening(server: Server, *rooms: str, **options):
    """A listener at work; yields what it prints and what it notes."""
    out, note = Told(), Told()
    token = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
    at = target(f"ws://127.0.0.1:{server.port}")
    listener = Listener(at, rooms, lambda: token, out=out, note=note, **options)
    task = asyncio.create_task(listener.run())
    try:
        for room in rooms:
            await note.wait_for(f"Listening in {room}")
        yield out, note
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_happened_during_a_lost_connection_follows():
    """The listener comes back by itself, prints what it missed, once and in order, and says that this was all."""
    async with running() as server, listening(server, "task:1") as (out, note):
        gateway = server.gateway
        for connection in list(gateway.keepalive.connections):
            connection.abort(SERVICE_RESTART)
        for number in range(3):
            await gateway.publishing.publish("task.deleted", "task:1", {"task_id": number}, None, None)
        await note.wait_for("task:1 again; nothing was missed")
        await gateway.publishing.publish("task.deleted", "task:1", {"task_id": 3}, None, None)
        await out.wait_for('"task_id":3')
    told = [text for text in out.lines if "task.deleted" in text]
    assert [f'"task_id":{number}' in text for number, text in enumerate(told)] == [True] * 4
    assert any("Disconnected (1006" in text for text in note.lines)


async def test_a_gap_in_the_history_is_told():
    """If more happened than the history keeps, that is said."""
    async with running() as server, listening(server, "task:1", since="nonsense-1") as (_, note):
        await note.wait_for("task:1 again; events may have been missed")


async def test_what_was_sent_to_the_user_during_a_lost_connection_follows():
    """Also before the first of it came, and also where no room was asked for."""
    async with running() as server, listening(server) as (out, note):
        gateway = server.gateway

        async def lose_and_send(number: int) -> None:
            for connection in list(gateway.keepalive.connections):
                connection.abort(SERVICE_RESTART)
            await gateway.publishing.publish(
                "notification.new", "user:1", {"title": "Hello", "message": f"number {number}"}, None, None
            )
            await out.wait_for(f"number {number}")

        await note.wait_for("Listening to what is sent to user 1")
        for number in range(2):
            await lose_and_send(number)
    assert [f"number {number}" in text for number, text in enumerate(out.lines)] == [True] * 2
    assert not any("missed" in text for text in note.lines)


async def test_a_users_lost_events_are_told():
    """If more was sent than the history keeps, that is said; what comes next is resumed from."""
    async with running() as server, listening(server, "task:1") as (_, note):
        gateway = server.gateway
        gateway.listener.on_resync("user:1", "gone-7")
        await note.wait_for("To the user: events were lost")
        for connection in list(gateway.keepalive.connections):
            connection.abort(SERVICE_RESTART)
        await note.wait_for("What was sent to the user may have been missed")
        await note.wait_for("Listening in task:1 again; nothing was missed")


async def test_several_rooms_share_a_connection():
    """Each event is of its own room."""
    async with running() as server, listening(server, "task:1", "project:2") as (out, _):
        assert len(server.gateway.keepalive.connections) == 1
        await server.gateway.publishing.publish("task.deleted", "task:1", {"task_id": 1}, None, None)
        await server.gateway.publishing.publish("project.archived", "project:2", {"project_id": 2}, "bob", None)
        await out.wait_for("project:2 project.archived bob")
        await out.wait_for("task:1 task.deleted - ")


async def test_the_listeners_leaving_is_in_order():
    """The server sees it go with a close frame."""
    async with running() as server:
        async with listening(server, "task:1"):
            (connection,) = server.gateway.keepalive.connections
        async with asyncio.timeout(PATIENCE):
            while connection.end is None:
                await asyncio.sleep(0.01)
        assert connection.end.code == 1000


def test_a_line_cannot_steer_the_terminal():
    """What users write is shown, not obeyed, and stays on one line."""
    text = line({"type": "message", "sender": "\x1b[31mred\nline", "data": {"content": "\u202eevil\x9b"}})
    assert text.isprintable()
    assert "\n" not in text
