"""What the doctor finds out about Redis; the rest of its findings are in test_cli.py."""

from __future__ import annotations

import pytest
from redis_servers import Cluster, FreshRedis, RedisServer, SentinelTrio, free_port
from shell import SECRET, roomcast

from roomcast import fastpath
from roomcast.broker.redis.inspection import ServerInfo
from roomcast.cli.doctor import FAIL, OK, RIGHTS, WARN, server
from roomcast.cli.doctor import redis as redis_findings

GOOD = {"maxmemory": "100mb", "maxmemory_policy": "noeviction", "appendonly": "yes"}
NEEDS = "Redis does all that nodes need."


async def findings(url: str, prefix: str = "roomcast", **variables: str) -> dict[str, str]:
    """The levels of the findings by their sentences."""
    environ = {"REDIS_URL": url, "REDIS_PREFIX": prefix, "REDIS_WAIT": "1", **variables}
    return {finding.sentence: finding.level async for finding in redis_findings(environ)}


def one(found: dict[str, str], words: str) -> str:
    """The level of the one finding with ``words``."""
    (level,) = [level for sentence, level in found.items() if words in sentence]
    return level


async def test_a_good_redis_is_found_good(fresh_redis: FreshRedis, redis_prefix: str):
    """It answers, has room, and does what nodes need; all that is left there expires."""
    redis = await fresh_redis(**GOOD)
    found = await findings(redis.url, redis_prefix)
    assert set(found.values()) == {OK}
    assert one(found, f"at {redis.address} answers (version ") == OK
    assert one(found, "has room: it uses ") == OK
    assert one(found, NEEDS) == OK
    for key in await redis("KEYS", "*"):
        assert redis_prefix in key
        assert await redis("PTTL", key) > 0


async def test_nothing_is_said_of_redis_where_it_is_not_used():
    """Without REDIS_URL, and with settings of it that are wrong, which was said before."""
    assert not [finding async for finding in redis_findings({"JWT_SECRET": SECRET})]
    assert await findings("redis://127.0.0.1:1", REDIS_LEASE="-1") == {}


async def test_a_redis_that_forgets_is_a_failure(fresh_redis: FreshRedis, redis_prefix: str):
    """If it evicts when it is full, histories and slots vanish without an error; without a limit it never does."""
    redis = await fresh_redis(maxmemory="100mb", maxmemory_policy="volatile-lru")
    assert one(await findings(redis.url, redis_prefix), "maxmemory-policy volatile-lru") == FAIL
    await redis("CONFIG", "SET", "maxmemory", 0)
    found = await findings(redis.url, redis_prefix)
    assert one(found, "maxmemory-policy volatile-lru") == WARN
    assert one(found, "has no maxmemory") == WARN


async def test_a_redis_that_forgets_revocations_is_pointed_out(fresh_redis: FreshRedis, redis_prefix: str):
    """Without an append-only file they are gone at a restart; one that does not tell is not blamed."""
    words = "forgets at a restart which tokens were revoked"
    redis = await fresh_redis(**GOOD | {"appendonly": "no"})
    assert one(await findings(redis.url, redis_prefix), words) == WARN
    silent = ServerInfo("cache:6379", "Redis", (7, 2), 1, 100, 1000, "noeviction", 2**25, None)
    assert not [finding for finding in server(silent, is_cluster=False) if words in finding.sentence]


async def test_a_redis_that_is_nearly_full_is_pointed_out(fresh_redis: FreshRedis, redis_prefix: str):
    """While it still takes what it is given."""
    redis = await fresh_redis(**GOOD)
    used = int((await redis.info("memory"))["used_memory"])
    await redis("SET", "filler", "x" * 2**22, "PX", 60_000)
    await redis("CONFIG", "SET", "maxmemory", used + 2**22 + 2**20)
    found = await findings(redis.url, redis_prefix)
    assert one(found, "is nearly full: it uses ") == WARN
    assert one(found, NEEDS) == OK


@pytest.mark.parametrize(
    ("limit", "words"), [("0 0 0", "any amount for a node that hangs"), ("256kb 0 0", "262144 bytes to read")]
)
async def test_a_buffer_for_subscribers_that_harms_is_pointed_out(
    fresh_redis: FreshRedis, redis_prefix: str, limit: str, words: str
):
    """Without a limit one node that hangs fills the memory; with a small one every burst cuts nodes off."""
    redis = await fresh_redis(client_output_buffer_limit=f"pubsub {limit}", **GOOD)
    assert one(await findings(redis.url, redis_prefix), words) == WARN


async def test_the_rights_that_it_names_are_enough(fresh_redis: FreshRedis, redis_prefix: str):
    """A user who lacks one is a failure with the list of them, and one who has just these is fine."""
    redis = await fresh_redis(**GOOD)
    rights = RIGHTS.format(prefix=redis_prefix)
    await redis("ACL", "SETUSER", "app", "on", ">pa55", *rights.split())
    url = f"redis://app:pa55@{redis.address}"
    found = await findings(url, redis_prefix)
    assert one(found, NEEDS) == OK
    assert one(found, "does not tell its client-output-buffer-limit") == OK
    for lost, words in (("-zadd", "'zadd' command"), ("-getdel", "'getdel' command"), ("resetchannels", "channel")):
        await redis("ACL", "SETUSER", "app", lost)
        found = await findings(url, redis_prefix)
        assert one(found, f"needs these rights: {rights}") == FAIL
        assert lost == "resetchannels" or one(found, words) == FAIL
        await redis("ACL", "SETUSER", "app", *rights.split())


async def test_an_authority_without_tls_is_pointed_out(fresh_redis: FreshRedis, redis_prefix: str):
    """Who gives one believes that passwords are not read on the way."""
    redis = await fresh_redis(**GOOD)
    assert one(await findings(redis.url, redis_prefix, REDIS_CA="/etc/a.pem"), "REDIS_CA has no effect") == WARN
    assert not [sentence for sentence in await findings(redis.url, redis_prefix) if "REDIS_CA" in sentence]


async def test_a_redis_that_is_not_there_is_a_failure(redis_prefix: str):
    """One sentence with the address and the reason, and nothing else is tried."""
    port = free_port()
    found = await findings(f"redis://:pa55@127.0.0.1:{port}", redis_prefix)
    assert found == {f"Redis at 127.0.0.1:{port} cannot be reached: connection refused.": FAIL}


async def test_a_redis_that_hangs_is_a_failure(fresh_redis: FreshRedis, redis_prefix: str):
    """It is waited for no longer than REDIS_TIMEOUT."""
    redis = await fresh_redis()
    redis.pause()
    found = await findings(redis.url, redis_prefix, REDIS_TIMEOUT="0.2")
    assert found == {f"Redis at {redis.address} cannot be reached: it has not answered for 0.2 s.": FAIL}


async def test_every_server_of_a_cluster_is_looked_at(redis_cluster: Cluster, redis_prefix: str):
    """Each primary answers for itself; what nodes need is tried on all of them together."""
    found = await findings(redis_cluster.url, redis_prefix)
    assert len([sentence for sentence in found if " answers (version " in sentence]) == 3
    assert one(found, NEEDS) == OK


async def test_the_primary_that_sentinel_names_is_looked_at(sentinel_trio: SentinelTrio, redis_prefix: str):
    """And not its replica, which takes no writes."""
    primary = await sentinel_trio.primary()
    found = await findings(sentinel_trio.url, redis_prefix)
    assert one(found, f"at {primary.address} answers (version ") == OK
    assert one(found, NEEDS) == OK


@pytest.mark.parametrize(("version", "is_cluster"), [((6, 0, 16), False), ((6, 2, 14), True)])
def test_a_redis_that_is_too_old_is_a_failure(version: tuple[int, ...], is_cluster: bool):
    """A Cluster must be younger, for its announcements to go to the nodes that want them alone."""
    facts = ServerInfo("cache:6379", "Redis", version, 1, 100, 1000, "noeviction", 2**25, True)
    found = {finding.sentence: finding.level for finding in server(facts, is_cluster)}
    assert one(found, "Redis at cache:6379 is too old") == FAIL
    (good,) = [finding for finding in server(facts, not is_cluster) if "version" in finding.sentence]
    assert good.level == (OK if version >= (6, 2) else FAIL)


def test_the_command_says_all_that(redis_server: RedisServer, redis_prefix: str):
    """Its findings are among the others, without a line of the log and without the password."""
    port = free_port()
    variables = {"JWT_SECRET": SECRET, "REDIS_PREFIX": redis_prefix, "REDIS_WAIT": "0.3"}
    done = roomcast("doctor", "--port", "0", REDIS_URL=redis_server.url, **variables)
    assert f"OK    {NEEDS}" in done.stdout.splitlines()
    assert done.returncode == 0
    done = roomcast("doctor", "--port", "0", REDIS_URL=f"redis://:pa55@127.0.0.1:{port}", **variables)
    assert f"FAIL  Redis at 127.0.0.1:{port} cannot be reached: connection refused." in done.stdout.splitlines()
    assert done.returncode == 1
    assert done.stderr == ""
    assert "pa55" not in done.stdout


@pytest.mark.parametrize("native", ["0", "1"])
def test_inner_loops_that_are_not_compiled_are_pointed_out(native: str):
    """With what to do about it; and nothing is said where they are, or that the variable is no setting."""
    done = roomcast("doctor", JWT_SECRET=SECRET, ROOMCAST_NATIVE=native)
    said = "WARN" in done.stdout and "a quarter more, up to a half. Install a C compiler, and roomcast" in done.stdout
    assert said is (native == "0" or not fastpath.IS_NATIVE)
    assert "ROOMCAST_NATIVE" not in done.stdout
