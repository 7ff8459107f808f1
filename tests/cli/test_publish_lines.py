"""``roomcast publish -`` with an event on each line."""

import asyncio
import json
import subprocess
import threading

import pytest
from aiohttp import web
from invoking import invoke, invoke_on
from shell import API_KEY, ROOMCAST, SECRET, Process, Running, environment, listening

from roomcast.cli import publish_lines
from roomcast.cli.publish_lines import is_line_of_event


def event(number: int, room: str = "task:n", **more: object) -> dict:
    """Return a valid event."""
    return {"type": "task.deleted", "room": room, "data": {"task_id": number}, **more}


def lines(*values: object) -> str:
    """Return one line for each value: a text as it is, others as JSON."""
    return "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)


def task_ids(server: Running, room: str) -> list[int]:
    """Return the tasks of the stored events of a room."""
    printed = invoke_on(server, "history", room, "--limit", "1000", "--json").stdout
    return [json.loads(line)["data"]["task_id"] for line in printed.splitlines()]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b'{"type": "a"}\n', True),
        (b"broken\n", True),
        (b'{"type": oops}\n', True),
        (b"{\n", False),
        (b'{"type": "a",\n', False),
        (b"[\n", False),
        (b'[{"type": "a"}]\n', False),
        (b"[1, oops]\n", False),
        (b"", False),
        (b" \n", False),
        (b"5\n", False),
    ],
)
def test_the_first_line_shows_the_form_of_the_input(first, expected):
    """A complete object and a broken line begin lines of events. A list or an unfinished object begins a document."""
    assert is_line_of_event(first) is expected


def test_broken_lines_are_reported_and_the_others_published(server):
    """Each line that cannot be published is reported with its number and its problem. The status is 1."""
    done = invoke_on(
        server,
        *("publish", "-"),
        stdin=lines(
            "",
            event(1),
            "broken",
            {**event(2), "type": "task.deletd"},
            [event(3)],
            event(4),
            {**event(5), "roomm": "x"},
            {**event(5), "data": {}},
        ).rstrip("\n"),
    )
    assert done.exit_code == 1
    assert len(done.stdout.split()) == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [f"Line {n}" for n in (3, 5, 4, 7, 8)]
    assert "Did you mean 'task.deleted'?" in done.stderr
    assert "roomm is unknown" in done.stderr
    assert task_ids(server, "task:n") == [1, 4]


def test_a_repeat_publishes_nothing(server):
    """The key of a line, or the id that it has, is the key of the event; --idempotency-key is for the other lines."""
    text = lines(event(1, "task:r", key="k"), event(2, "task:r", key="same", id="abc-1"), event(3, "task:r"))
    first, second = (invoke_on(server, "publish", "-", "--idempotency-key", "run", stdin=text) for _ in range(2))
    assert first.stdout == second.stdout != ""
    assert task_ids(server, "task:r") == [1, 2, 3]
    again = invoke_on(server, "publish", "-", stdin=lines(event(4, "task:r", key="same"), event(5, "task:r")))
    assert again.exit_code == 0
    assert task_ids(server, "task:r") == [1, 2, 3, 4, 5]


def test_the_events_of_a_listener_are_forwarded(server):
    """``listen --json | publish -`` forwards each event once and in order, and skips joins and leaves."""
    with Running() as other, listening(server, "task:f", "--json", "--count", "22") as listener:
        invoke_on(server, "publish", "-", stdin=lines(*(event(n, "task:f") for n in range(20)), event(20, "task:f")))
        assert listener.ended() == 0
        printed = "\n".join(listener.out) + "\n"
        for _ in range(2):
            done = invoke_on(other, "publish", "-", stdin=printed)
            assert done.exit_code == 0, done.stderr
            assert done.stderr == "Lines with events that only a server sends, such as user_joined, were skipped: 1.\n"
        assert task_ids(other, "task:f") == list(range(21))


def test_lines_are_published_as_they_arrive(server):
    """An event is published while the input is still open, and a pipe ends the command at its end."""
    command = [*ROOMCAST, "publish", "-", "--json", "--url", server.url]
    with subprocess.Popen(
        command, env=environment(API_KEY=API_KEY), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for number in (1, 2):
            process.stdin.write(lines(event(number, "task:open")))
            process.stdin.flush()
            printed = json.loads(process.stdout.readline())
            assert printed["line"] == number and printed["id"].endswith(f"-{number}")
        process.stdin.close()
        assert process.wait(30) == 0


def test_many_lines(server, monkeypatch):
    """More events than fit into a request are published in order, also across the ends of reads."""
    monkeypatch.setattr(publish_lines, "MAX_BATCH", 40)
    monkeypatch.setattr(publish_lines, "READ_SIZE", 5000)
    done = invoke_on(server, "publish", "-", stdin=lines(*(event(n, "task:many") for n in range(400))))
    assert done.exit_code == 0, done.stderr
    assert task_ids(server, "task:many") == list(range(400))


def test_a_line_that_is_too_long(server, monkeypatch):
    """It is reported once, and the lines around it are published."""
    monkeypatch.setattr(publish_lines, "MAX_LINE", 5000)
    monkeypatch.setattr(publish_lines, "READ_SIZE", 1000)
    text = lines(event(1, "task:long"), "x" * 20_000, event(2, "task:long"))
    done = invoke_on(server, "publish", "-", stdin=text)
    assert (done.exit_code, done.stderr) == (1, "Line 2: The line has more than 5000 bytes.\n")
    assert task_ids(server, "task:long") == [1, 2]


def test_a_key_for_some_rooms():
    """Lines for other rooms are refused by number, and the others are published. A wrong key ends the command."""
    named = {"some": {"key": "key-of-some-rooms-12345", "scopes": ["publish", "read"], "rooms": ["task:1"]}}
    with Running(API_KEYS=json.dumps(named)) as server:
        text = lines(event(1, "task:1"), event(2, "task:2"), event(3, "task:1"))
        done = invoke_on(server, "publish", "-", stdin=text, API_KEY="key-of-some-rooms-12345")
        assert (done.exit_code, len(done.stdout.split())) == (1, 2)
        assert done.stderr.startswith("Line 2: This call is for task:2")
        done = invoke_on(server, "publish", "-", stdin=text, API_KEY="a-wrong-key")
        assert (done.exit_code, done.stdout) == (4, "")


def test_an_outage_during_the_command(monkeypatch):
    """After the server was reached once, the request is repeated with its key until it succeeds."""
    monkeypatch.setattr(publish_lines, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(publish_lines, "READ_SIZE", 10)
    with FlakyServer(failures=2) as flaky:
        text = lines(event(1), event(2))
        done = invoke("publish", "-", stdin=text, ROOMCAST_URL=flaky.url, API_KEY=API_KEY)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == ["x-1", "x-1"]
    assert done.stderr.count("Trying again in") == 2
    first, *others = flaky.keys
    assert len(others) == 3 and len(set(others)) == 1 and first != others[0]


def test_a_server_that_is_unreachable_at_first():
    """The command ends at once with status 3."""
    done = invoke("publish", "-", stdin=lines(event(1)), ROOMCAST_URL="http://127.0.0.1:1", API_KEY=API_KEY)
    assert (done.exit_code, done.stdout) == (3, "")


class FlakyServer:
    """A server that accepts the first request, fails ``failures`` times, and then accepts again.

    Records the ``keys`` of all requests.
    """

    def __init__(self, failures: int) -> None:
        self.keys: list[str] = []
        self._failures = failures

    async def _answer(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        if 1 < len(self.keys) <= self._failures + 1:
            return web.json_response({"error": "Try again soon.", "code": "unavailable"}, status=503)
        return web.json_response({"ids": ["x-1"] * len(await request.json())})

    def __enter__(self) -> "FlakyServer":
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            app = web.Application()
            app.router.add_post("/api/v1/events", self._answer)
            self._runner = web.AppRunner(app)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
            ready.set()

        def run() -> None:
            self._loop.run_until_complete(serve())
            self._loop.run_forever()
            self._loop.run_until_complete(self._runner.cleanup())
            self._loop.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


def test_the_listener_ends_after_a_count(server):
    """Only events of the types that were asked for count and are printed. A typing error is noted."""
    args = ("task:c", "--type", "task.deleted", "--type", "task.updatd", "--count", "2")
    with Process("listen", *args, "--url", server.ws, JWT_SECRET=SECRET) as listener:
        listener.wait_for("Listening in task:c", listener.err)
        other = {"type": "task.created", "room": "task:c", "data": {"task_id": 9, "title": "x"}}
        invoke_on(server, "publish", "-", stdin=lines(other, event(1, "task:c"), other, event(2, "task:c")))
        assert listener.ended() == 0
    assert [line.split(" ")[2] for line in listener.out] == ["task.deleted"] * 2
    assert "declare no event 'task.updatd'; the server may have others. Did you mean 'task.updated'?" in listener.err[0]
