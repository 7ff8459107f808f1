"""``roomcast listen``: it prints all events despite lost connections, or reports that some may be missing."""

import asyncio
from contextlib import asynccontextmanager, suppress

import click
import serving
from access_server import AccessServer
from aiohttp import web
from shell import SECRET, TASK, Process, Running, listening, publish, refusal, roomcast

from roomcast.auth.identity import make_token
from roomcast.cli import listen
from roomcast.cli.listen import Listener
from roomcast.cli.printing import event_line
from roomcast.cli.target import parse_target
from roomcast.errors import SERVICE_RESTART
from roomcast.web.server import Server

PATIENCE = 20.0


@asynccontextmanager
async def running(**settings):
    """Run a server in this process, on a free port."""
    async with serving.running(jwt_secret=SECRET, api_key=None, history_size=100, history_ttl=60, **settings) as server:
        yield server


class Lines:
    """Collects lines of output without their colors; a test can wait for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, text: str) -> None:
        self.lines.append(click.unstyle(text))
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, words: str) -> None:
        """Wait until a line contains ``words``."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: any(words in text for text in self.lines))


@asynccontextmanager
async def listener_of(server: Server, *rooms: str, joins: bool = True, **options):
    """Run a listener that has joined ``rooms``, unless ``joins`` is False; yield its lines of events and its notes."""
    out, note = Lines(), Lines()
    token = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
    target = parse_target(f"ws://127.0.0.1:{server.port}")
    listener = Listener(target, rooms, lambda: token, out=out, note=note, **options)
    task = asyncio.create_task(listener.run())
    try:
        for room in rooms if joins else ():
            await note.wait_for(f"Listening in {room}")
        yield out, note
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_events_during_a_lost_connection_follow():
    """The listener reconnects, prints the missed events once and in order, and reports that nothing was missed."""
    async with running() as server, listener_of(server, "task:1") as (out, note):
        gateway = server.gateway
        for connection in list(gateway.keepalive.connections):
            connection.abort(SERVICE_RESTART)
        for number in range(3):
            await gateway.publishing.publish("task.deleted", "task:1", {"task_id": number}, None, None)
        await note.wait_for("task:1 again; nothing was missed")
        await gateway.publishing.publish("task.deleted", "task:1", {"task_id": 3}, None, None)
        await out.wait_for('"task_id":3')
    printed = [text for text in out.lines if "task.deleted" in text]
    assert [f'"task_id":{number}' in text for number, text in enumerate(printed)] == [True] * 4
    assert any("Disconnected (1006" in text for text in note.lines)


async def test_a_gap_in_the_history_is_reported():
    """If the history does not contain the last event, the listener reports that events may be missing."""
    async with running() as server, listener_of(server, "task:1", since="nonsense-1") as (_, note):
        await note.wait_for("task:1 again; events may have been missed")


async def test_events_to_the_user_during_a_lost_connection_follow():
    """Missed events to the user are printed, even if there were none before and no room is given."""
    async with running() as server, listener_of(server) as (out, note):
        gateway = server.gateway

        async def lose_and_send(number: int) -> None:
            for connection in list(gateway.keepalive.connections):
                connection.abort(SERVICE_RESTART)
            await gateway.publishing.publish(
                "notification.new", "user:1", {"title": "Hello", "message": f"number {number}"}, None, None
            )
            await out.wait_for(f"number {number}")

        await note.wait_for("Listening to events sent to user 1")
        for number in range(2):
            await lose_and_send(number)
    assert [f"number {number}" in text for number, text in enumerate(out.lines)] == [True] * 2
    assert not any("missed" in text for text in note.lines)


async def test_lost_events_to_the_user_are_reported():
    """The listener reports the loss, and resumes from the events that follow."""
    async with running() as server, listener_of(server, "task:1") as (_, note):
        gateway = server.gateway
        gateway.listener.on_resync("user:1", "gone-7")
        await note.wait_for("To the user: events were lost")
        for connection in list(gateway.keepalive.connections):
            connection.abort(SERVICE_RESTART)
        await note.wait_for("Events sent to the user may have been missed")
        await note.wait_for("Listening in task:1 again; nothing was missed")


async def test_a_failed_access_check_is_repeated(access_server: AccessServer, monkeypatch):
    """A room whose access check fails is joined when the check succeeds; other rooms are not affected."""
    monkeypatch.setattr(listen, "FIRST_PAUSE", 0.05)
    is_broken = True

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503 if is_broken and (await request.json())["room"] == "task:2" else 200)

    access_server.answer = answer
    async with running(room_access=access_server.url) as server:
        async with listener_of(server, "task:1", "task:2", joins=False) as (out, note):
            await note.wait_for("task:2 cannot be joined now: join_room could not be carried out now; try again soon.")
            await note.wait_for("Listening in task:1")
            is_broken = False
            await note.wait_for("Listening in task:2")
            await server.gateway.publishing.publish("task.deleted", "task:2", {"task_id": 3}, None, None)
            await out.wait_for('"task_id":3')
        assert not any("Disconnected" in text for text in note.lines)


async def test_several_rooms_share_a_connection():
    """Each line names the room of its event."""
    async with running() as server, listener_of(server, "task:1", "project:2") as (out, _):
        assert len(server.gateway.keepalive.connections) == 1
        await server.gateway.publishing.publish("task.deleted", "task:1", {"task_id": 1}, None, None)
        await server.gateway.publishing.publish("project.archived", "project:2", {"project_id": 2}, "bob", None)
        await out.wait_for("project:2 project.archived bob")
        await out.wait_for("task:1 task.deleted - ")


async def test_a_cancelled_listener_closes_its_connection():
    """The server receives a close frame."""
    async with running() as server:
        async with listener_of(server, "task:1"):
            (connection,) = server.gateway.keepalive.connections
        async with asyncio.timeout(PATIENCE):
            while connection.end is None:
                await asyncio.sleep(0.01)
        assert connection.end.code == 1000


def test_an_event_cannot_control_the_terminal():
    """Control characters are escaped, and an event stays on one line."""
    line = event_line({"type": "message", "sender": "\x1b[31mred\nline", "data": {"content": "\u202eevil\x9b"}})
    text = click.unstyle(line)
    assert text.isprintable()
    assert "\n" not in text


# The command.


def test_since_prints_later_events_first(server):
    """With --since, the events after that id are printed before new events."""
    first = publish(server, "task.deleted", "project:2", '{"task_id": 1}').stdout.strip()
    publish(server, "task.deleted", "project:2", '{"task_id": 2}')
    with listening(server, "project:2", "--since", first) as listener:
        listener.wait_for("task.deleted", listener.out)
        printed = [line for line in listener.out if "task.deleted" in line]
    assert len(printed) == 1
    assert '"task_id":2' in printed[0]


def test_a_wrong_token_ends_the_command(server):
    """The sentence contains 4401 and what to do, and does not repeat the token."""
    sentence = refusal("listen", "task:1", "--url", server.ws, "--token", "a.wrong.token", status=4)
    assert "4401" in sentence
    assert "a.wrong.token" not in sentence


def test_a_forbidden_room_ends_the_command(server):
    """The sentence contains the room and 4403."""
    token = roomcast("token", "--user-id", "1", "--room", "channel:1", JWT_SECRET=SECRET).stdout.strip()
    done = roomcast("listen", "channel:2", "--url", server.ws, ROOMCAST_TOKEN=token)
    assert done.returncode == 4
    assert "channel:2" in done.stderr
    assert "4403" in done.stderr


def test_a_personal_room_needs_a_token_of_its_user(server):
    """A personal room cannot be joined. The error contains a command that prints its events, and that command works."""
    done = roomcast("listen", "task:1", "user:7", "--url", server.ws, JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert 'roomcast listen --token "$(roomcast token --user-id 7)"' in done.stderr
    token = roomcast("token", "--user-id", "7", JWT_SECRET=SECRET).stdout.strip()
    with Process("listen", "--token", token, "--url", server.ws) as listener:
        listener.wait_for("Listening to events sent to user 7", listener.err)
        assert publish(server, "notification.new", "user:7", '{"title": "Hello", "message": "You"}').returncode == 0
        listener.wait_for(r"^\S+ - notification\.new - ", listener.out)


def test_the_command_for_a_personal_room_is_quoted(server):
    """The id is decoded, and quoted for a shell."""
    done = roomcast("listen", "user:auth0%7C1", "--url", server.ws, JWT_SECRET=SECRET)
    assert """$(roomcast token --user-id 'auth0|1')""" in done.stderr


def test_listening_needs_a_token():
    """The sentence lists all ways to give a token."""
    sentence = refusal("listen", "task:1")
    assert all(word in sentence for word in ("--token", "ROOMCAST_TOKEN", "JWT_SECRET"))


def test_a_listener_survives_a_restart_of_the_server():
    """The listener reconnects. The embedded broker has lost its history, so it reports that events may be missing."""
    with Running() as first:
        port = first.url.rpartition(":")[2]
        listener = listening(first, "project:1")
        assert first.stop() == 0
    with listener, Running("serve", "--port", port) as second:
        listener.wait_for("Disconnected .1012 Service Restart", listener.err)
        listener.wait_for("project:1 again; events may have been missed", listener.err)
        assert publish(second, "task.created", "project:1", TASK).returncode == 0
        listener.wait_for("task.created", listener.out)
