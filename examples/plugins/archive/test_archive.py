"""Tests of the archive, on the embedded broker, on Redis and on two nodes."""

import asyncio

import pytest

pytestmark = pytest.mark.all_brokers
ROOM = "channel:1"
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture
def roomcast_settings(tmp_path):
    variables = {"ARCHIVE_PATH": str(tmp_path / "archive.db"), "ARCHIVE_KEY": "secret"}
    return {"history_size": 2, "plugin_variables": variables}


async def read(node, headers=KEY):
    async with node.session.get(f"/plugins/archive/{ROOM}", headers=headers) as response:
        return response.status, await response.json()


async def test_the_archive_is_longer_than_the_history(connect, gateway):
    users = [await connect(name, rooms=["channel:*"]) for name in ("alice", "bob")]
    for user in users:
        await user.join(ROOM)
    for number in range(6):
        await users[number % 2].command("send_message", {"content": str(number)}, room=ROOM)
    async with asyncio.timeout(5):
        while len((await read(gateway))[1]) < 6:  # the archive follows
            await asyncio.sleep(0.01)
    for node in gateway.nodes:
        events = (await read(node))[1]
        assert sorted(event["data"]["content"] for event in events) == list("012345")


async def test_without_the_key(gateway):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert (await read(gateway, headers))[0] == 401
