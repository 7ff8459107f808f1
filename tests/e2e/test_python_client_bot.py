"""The bot of docs/python-client.md, in a process of its own, while its server is killed and restarted."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

from docs_pages import snippet
from python_client import QUICK, with_client
from redis_servers import RedisServer, free_port
from shell import API_KEY, SECRET, Process
from waiting import PATIENCE

from roomcast_client import AsyncRoomcast, EventFrame

ROOM = "project:123"


class World:
    """A server on Redis that can be killed, and the bot."""

    def __init__(self, redis: RedisServer, prefix: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server = ("serve", "--port", str(port))
        self._settings = {"JWT_SECRET": SECRET, "API_KEY": API_KEY, "REDIS_URL": redis.url, "REDIS_PREFIX": prefix}
        (folder / "bot.py").write_text(snippet("a bot").replace("http://localhost:8000", self.url))
        self._bot = ("-c", f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_path('bot.py')")

    def start_server(self) -> Process:
        """Start the server, on the same port each time."""
        server = Process(*self._server, **self._settings)
        server.wait_for("listens on http://", server.err)
        return server

    def start_bot(self) -> Process:
        """Start the bot, in the folder with its positions."""
        command = (sys.executable,)
        return Process(
            *self._bot, command=command, **with_client(JWT_SECRET=SECRET, API_KEY=API_KEY, PYTHONUNBUFFERED="1")
        )


async def stored(client: AsyncRoomcast) -> list[EventFrame]:
    """Return all events of the room."""
    return (await client.history(ROOM)).events


async def until_seen(client: AsyncRoomcast, *ids: int) -> None:
    """Wait until the bot has answered each of these tasks."""
    async with asyncio.timeout(3 * PATIENCE):  # the pauses of the bot grow while its server starts
        while True:
            answered = {event["data"]["task_id"] for event in await stored(client) if event["type"] == "task.updated"}
            if answered >= set(ids):
                return
            await asyncio.sleep(0.05)


async def create(client: AsyncRoomcast, id: int) -> None:
    """Publish a new task."""
    await client.publish("task.created", ROOM, {"task_id": id, "title": "A"})


async def test_the_bot_answers_each_task_once(redis_server: RedisServer, redis_prefix: str, tmp_path: Path) -> None:
    """The server is killed while the bot runs, and the bot is killed while the server runs. No task is missed."""
    world = World(redis_server, redis_prefix, tmp_path)
    server = await asyncio.to_thread(world.start_server)
    bot = await asyncio.to_thread(world.start_bot)
    try:
        async with AsyncRoomcast(world.url, API_KEY, retries=QUICK) as client:
            async with asyncio.timeout(PATIENCE):
                while not await client.members(ROOM):
                    await asyncio.sleep(0.05)
            await create(client, 1)
            await until_seen(client, 1)
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.ended)
            server = await asyncio.to_thread(world.start_server)
            await create(client, 2)
            await create(client, 3)
            await until_seen(client, 2, 3)
            bot.signal(signal.SIGKILL)
            await asyncio.to_thread(bot.ended)
            await create(client, 4)
            bot = await asyncio.to_thread(world.start_bot)
            await create(client, 5)
            await until_seen(client, 4, 5)
            events = Counter((event["type"], event["data"]["task_id"]) for event in await stored(client))
    finally:
        await asyncio.to_thread(bot.stop)
        await asyncio.to_thread(server.stop)
    assert events == {(type, id): 1 for type in ("task.created", "task.updated") for id in range(1, 6)}
    assert bot.out == []
