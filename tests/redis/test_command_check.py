"""The check of commands: it finds what a server refuses, names the missing rights, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from paths import ROOT
from redis.crc import key_slot
from redis_groups import Cluster
from redis_refusals import REFUSALS, refusing
from redis_servers import FreshRedis, RedisServer

from roomcast.broker.redis.command_check import _commands, describe_missing, describe_state, find_refusals
from roomcast.broker.redis.connection import RedisConnection
from roomcast.broker.redis.handshake import open_connection
from roomcast.broker.redis.keys import Keys
from roomcast.errors import Unavailable

KEYS = Keys("cast")
#: HELLO with AUTH, which Redis refuses to no user; the name of an error; a command of ``roomcast doctor`` only; and a
#: word of a message.
NOT_CHECKED = {"AUTH", "HELLO", "READONLY", "CONFIG", "ACL"}
Open = Callable[[RedisServer], Awaitable[RedisConnection]]


@pytest.fixture
async def open_to() -> AsyncIterator[Open]:
    """``await open_to(server)`` returns a connection, which is closed at the end of the test."""
    connections = []

    async def open_(server: RedisServer) -> RedisConnection:
        address, credentials = ("127.0.0.1", server.port), (server.user, server.password)
        connection = await open_connection(address, credentials, 0, None, lambda _: None, lambda *_: None, (), 20.0)
        connections.append(connection)
        return connection

    yield open_
    for connection in connections:
        connection.abort("the test is over")


async def test_every_command_of_a_node_is_checked(open_to: Open, redis_server: RedisServer) -> None:
    """The check has each command that the broker's scripts and modules use."""
    known = {name.decode().upper() for name in await (await open_to(redis_server)).execute("COMMAND", "LIST")}
    checked = {
        command[0].partition(" ")[0]
        for is_cluster in (False, True)
        for command in _commands(KEYS, "k", 1, is_cluster=is_cluster, has_rooms=True)
    }
    folder = ROOT / "app" / "broker" / "redis"
    used = set()
    for path in folder.glob("lua/*.lua"):
        used |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text()))
    for path in folder.glob("*.py"):
        if path.name != "command_check.py":
            used |= set(re.findall(r'"([A-Z]+)[ "]', path.read_text())) & known
    assert len(used) > 30
    assert used - NOT_CHECKED == checked


async def test_a_server_that_accepts_everything(open_to: Open, fresh_redis: FreshRedis) -> None:
    """The check finds nothing, and writes nothing: no key, and nothing to the append-only file."""
    server = await fresh_redis(appendonly="yes")
    connection = await open_to(server)
    before = await server.info("persistence")
    assert await find_refusals(connection, KEYS) == []
    after = await server.info("persistence")
    assert await server("DBSIZE") == 0
    assert after["aof_current_size"] == before["aof_current_size"]
    assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]


async def test_each_server_of_a_cluster(open_to: Open, redis_cluster: Cluster) -> None:
    """On each primary the check uses a key of that server, and finds nothing."""
    bounds = [0, 5461, 10923, 16384]
    for number, server in enumerate(redis_cluster.servers[:3]):
        connection = await open_to(server)

        def is_local(key: bytes, number: int = number) -> bool:
            return bounds[number] <= key_slot(key) < bounds[number + 1]

        assert await find_refusals(connection, KEYS, is_cluster=True, is_local=is_local) == []
        assert await find_refusals(connection, KEYS, is_cluster=True, is_local=lambda key: False) == []


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_are_found(open_to: Open, fresh_redis: FreshRedis, name: str) -> None:
    """The phrases contain the reason and some commands. Missing rights are separate from states that may end."""
    server = await fresh_redis(appendonly="yes" if name == "AOF" else "no")
    connection = await open_to(server)
    async with refusing(server, name):
        refusals = await find_refusals(connection, KEYS)
    missing, state = describe_missing(refusals, None, "cast"), describe_state(refusals)
    if name.startswith("NOPERM"):
        assert (len(missing), state) == (1, [])
    else:
        assert missing == []
        code = "MISCONF" if name == "AOF" else name
        assert any(re.fullmatch(rf"refuses commands \(.+\): {code} .+[^.]", phrase) for phrase in state)
    assert await find_refusals(connection, KEYS) == []


@pytest.mark.parametrize(
    ("rights", "phrase"),
    [
        (("-ping",), "to run ping; grant it with ACL SETUSER app +ping"),
        (("-script|load",), "to run script|load; grant it with ACL SETUSER app +script|load"),
        (("-evalsha", "-xadd"), "to run evalsha, xadd; grant it with ACL SETUSER app +evalsha +xadd"),
        (("-getdel", "-publish"), "to run getdel, publish; grant it with ACL SETUSER app +getdel +publish"),
        (("resetkeys", "~other:*"), "to use the keys of REDIS_PREFIX; grant it with ACL SETUSER app ~*cast:*"),
        (("resetkeys", "~cast:*"), "to use the keys of REDIS_PREFIX; grant it with ACL SETUSER app ~*cast:*"),
        (("resetkeys", "~{cast:*"), "to use the keys of REDIS_PREFIX; grant it with ACL SETUSER app ~*cast:*"),
        (("resetchannels",), "to use the channels of REDIS_PREFIX; grant it with ACL SETUSER app &*cast:*"),
        (("resetchannels", "&cast:*"), "to use the channels of REDIS_PREFIX; grant it with ACL SETUSER app &*cast:*"),
        (
            ("-set", "resetchannels"),
            "to run set and to use the channels of REDIS_PREFIX; grant it with ACL SETUSER app +set &*cast:*",
        ),
    ],
)
async def test_missing_rights(open_to: Open, fresh_redis: FreshRedis, rights: tuple[str, ...], phrase: str) -> None:
    """The phrase names the commands, and the rule. With the rule, the check finds nothing."""
    server = await fresh_redis(user="app", password="pa55")
    await server("ACL", "SETUSER", "app", *rights)
    (found,) = describe_missing(await find_refusals(await open_to(server), KEYS), "app", "cast")
    assert found == f"does not allow its user app {phrase}"
    await server("ACL", "SETUSER", "app", *found.partition("SETUSER app ")[2].split())
    assert await find_refusals(await open_to(server), KEYS) == []


async def test_disabled_commands(open_to: Open, fresh_redis: FreshRedis) -> None:
    """A command that was renamed is not one that a right would allow."""
    server = await fresh_redis(rename_command='getdel ""')
    found = describe_missing(await find_refusals(await open_to(server), KEYS), None, "cast")
    assert found == ["does not know getdel: it is too old, or rename-command has disabled them"]


async def test_the_greeting_lacks_rights(open_to: Open, fresh_redis: FreshRedis) -> None:
    """Without the right to INFO there is no connection, and the error names everything that is missing."""
    server = await fresh_redis(user="app", password="pa55")
    await server("ACL", "SETUSER", "app", "-info", "-xadd")
    with pytest.raises(
        Unavailable, match=r"its user app to run info, xadd; grant it with ACL SETUSER app \+info \+xadd"
    ):
        await open_to(server)
