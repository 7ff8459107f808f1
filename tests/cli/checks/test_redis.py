"""``roomcast doctor`` finds the problems of Redis servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, free_port
from redis_tls import over_tls
from shell import SECRET
from tls_authority import Authority

from roomcast.broker.redis.inspection import ServerInfo
from roomcast.cli.checks.finding import FAIL, OK, WARN
from roomcast.cli.checks.redis import RIGHTS, check_redis, check_server

GOOD = {"maxmemory": "100mb", "maxmemory_policy": "noeviction", "appendonly": "yes"}
ALL_OPERATIONS = "Redis performs all operations that a node needs."


async def findings(url: str, prefix: str = "roomcast", **variables: str) -> dict[str, str]:
    """Return the level of each finding, by its sentence."""
    environ = {"REDIS_URL": url, "REDIS_PREFIX": prefix, "REDIS_WAIT": "1", **variables}
    return {finding.sentence: finding.level async for finding in check_redis(environ)}


def level_of(found: dict[str, str], words: str) -> str:
    """Return the level of the only finding that contains ``words``."""
    (level,) = [level for sentence, level in found.items() if words in sentence]
    return level


async def test_a_good_redis_passes(fresh_redis: FreshRedis, redis_prefix: str):
    """All findings are OK, and all keys that the checks leave expire."""
    redis = await fresh_redis(**GOOD)
    found = await findings(redis.url, redis_prefix)
    assert set(found.values()) == {OK}
    assert level_of(found, f"at {redis.address} answers (version ") == OK
    assert level_of(found, "has free memory: it uses ") == OK
    assert level_of(found, ALL_OPERATIONS) == OK
    for key in await redis("KEYS", "*"):
        assert redis_prefix in key
        assert await redis("PTTL", key) > 0


async def test_without_redis_there_are_no_findings():
    """Without REDIS_URL, or with Redis settings that another check reports as wrong, there are no findings."""
    assert not [finding async for finding in check_redis({"JWT_SECRET": SECRET})]
    assert await findings("redis://127.0.0.1:1", REDIS_LEASE="-1") == {}


async def test_an_eviction_policy_is_a_failure(fresh_redis: FreshRedis, redis_prefix: str):
    """With maxmemory, the policy deletes data without an error. Without maxmemory it is only a warning."""
    redis = await fresh_redis(maxmemory="100mb", maxmemory_policy="volatile-lru")
    assert level_of(await findings(redis.url, redis_prefix), "maxmemory-policy volatile-lru") == FAIL
    await redis("CONFIG", "SET", "maxmemory", 0)
    found = await findings(redis.url, redis_prefix)
    assert level_of(found, "maxmemory-policy volatile-lru") == WARN
    assert level_of(found, "has no maxmemory") == WARN


async def test_lost_revocations_are_a_warning(fresh_redis: FreshRedis, redis_prefix: str):
    """Without an append-only file a restart loses them. A Redis that hides its configuration gets no warning."""
    words = "loses token revocations when it restarts"
    redis = await fresh_redis(**GOOD | {"appendonly": "no"})
    assert level_of(await findings(redis.url, redis_prefix), words) == WARN
    silent = ServerInfo("cache:6379", "Redis", (7, 2), 1, 100, 1000, "noeviction", 2**25, None)
    assert not [finding for finding in check_server(silent, is_cluster=False) if words in finding.sentence]


async def test_a_nearly_full_redis_is_a_warning(fresh_redis: FreshRedis, redis_prefix: str):
    """The warning comes while Redis still accepts writes."""
    redis = await fresh_redis(**GOOD)
    await redis("SET", "filler", "x" * 2**24, "PX", 60_000)
    used = int((await redis.info("memory"))["used_memory"])
    await redis("CONFIG", "SET", "maxmemory", int(used / 0.85))  # 3 MB are free, for the scripts of the check
    found = await findings(redis.url, redis_prefix)
    assert level_of(found, "is nearly full: it uses ") == WARN
    assert level_of(found, ALL_OPERATIONS) == OK


@pytest.mark.parametrize(
    ("limit", "words"), [("0 0 0", "a node that hangs can fill its memory"), ("256kb 0 0", "262144 bytes to read")]
)
async def test_a_harmful_output_buffer_limit_is_a_warning(
    fresh_redis: FreshRedis, redis_prefix: str, limit: str, words: str
):
    """Without a limit, a node that hangs fills the memory. With a small limit, a burst disconnects nodes."""
    redis = await fresh_redis(client_output_buffer_limit=f"pubsub {limit}", **GOOD)
    assert level_of(await findings(redis.url, redis_prefix), words) == WARN


async def test_the_listed_rights_are_sufficient(fresh_redis: FreshRedis, redis_prefix: str):
    """A user with these rights passes. A user without one of them is a failure that lists the rights."""
    redis = await fresh_redis(**GOOD)
    rights = RIGHTS.format(prefix=redis_prefix)
    await redis("ACL", "SETUSER", "app", "on", ">pa55", *rights.split())
    url = f"redis://app:pa55@{redis.address}"
    found = await findings(url, redis_prefix)
    assert level_of(found, ALL_OPERATIONS) == OK
    assert level_of(found, "does not show its client-output-buffer-limit") == OK
    for lost, rule in (("-zadd", "+zadd"), ("-getdel", "+getdel"), ("resetchannels", rights.split()[1])):
        await redis("ACL", "SETUSER", "app", lost)
        found = await findings(url, redis_prefix)
        assert level_of(found, f"grant it with ACL SETUSER app {rule}.") == FAIL
        assert level_of(found, f"A node needs these rights in all: {rights}") == FAIL
        await redis("ACL", "SETUSER", "app", *rights.split())


async def test_redis_ca_without_tls_is_a_warning(fresh_redis: FreshRedis, redis_prefix: str):
    """An operator who sets REDIS_CA expects encryption."""
    redis = await fresh_redis(**GOOD)
    assert level_of(await findings(redis.url, redis_prefix, REDIS_CA="/etc/a.pem"), "REDIS_CA has no effect") == WARN
    found = await findings(redis.url, redis_prefix, REDIS_CERT="/etc/c.pem", REDIS_KEY="/etc/k.pem")
    assert level_of(found, "REDIS_CERT has no effect") == WARN
    assert not [sentence for sentence in await findings(redis.url, redis_prefix) if "REDIS_C" in sentence]


async def test_tls(fresh_redis: FreshRedis, redis_prefix: str, tmp_path: Path):
    """Files for TLS that cannot be used are failures that name the setting; no verification is a warning."""
    redis, authority = await fresh_redis(**GOOD), Authority(tmp_path)
    certificate, key = map(str, authority.issue("client"))
    files = {"REDIS_CA": str(authority.ca), "REDIS_CERT": certificate, "REDIS_KEY": key}
    async with over_tls(redis, authority, authority.server_context(requires_client=True)) as url:
        found = await findings(url, redis_prefix, **files)
        assert (level_of(found, ALL_OPERATIONS), set(found.values())) == (OK, {OK})
        found = await findings(url, redis_prefix, **files, REDIS_TLS_VERIFY="false")
        assert level_of(found, "REDIS_TLS_VERIFY is false") == WARN
        assert level_of(found, ALL_OPERATIONS) == OK
        wrong = await findings(url, redis_prefix, **files | {"REDIS_CERT": "/no/such.pem"})
        assert wrong == {"REDIS_CERT /no/such.pem cannot be read: no such file or directory.": FAIL}


async def test_an_unreachable_redis_is_a_failure(redis_prefix: str):
    """The only finding is a sentence with the address and the reason."""
    port = free_port()
    found = await findings(f"redis://:pa55@127.0.0.1:{port}", redis_prefix)
    assert found == {f"Redis at 127.0.0.1:{port} cannot be reached: connection refused.": FAIL}


async def test_a_redis_that_hangs_is_a_failure(fresh_redis: FreshRedis, redis_prefix: str):
    """The check waits no longer than REDIS_TIMEOUT."""
    redis = await fresh_redis()
    redis.pause()
    found = await findings(redis.url, redis_prefix, REDIS_TIMEOUT="0.2")
    assert found == {f"Redis at {redis.address} cannot be reached: it has not answered for 0.2 s.": FAIL}


async def test_every_primary_of_a_cluster_is_checked(redis_cluster: Cluster, redis_prefix: str):
    """Each primary has findings of its own. The operations of a node are tried on the whole Cluster."""
    found = await findings(redis_cluster.url, redis_prefix)
    assert len([sentence for sentence in found if " answers (version " in sentence]) == 3
    assert level_of(found, ALL_OPERATIONS) == OK


async def test_the_primary_that_sentinel_names_is_checked(sentinel_trio: SentinelTrio, redis_prefix: str):
    """The replica, which refuses writes, is not checked."""
    primary = await sentinel_trio.primary()
    found = await findings(sentinel_trio.url, redis_prefix)
    assert level_of(found, f"at {primary.address} answers (version ") == OK
    assert level_of(found, ALL_OPERATIONS) == OK


@pytest.mark.parametrize(("version", "is_cluster"), [((6, 0, 16), False), ((6, 2, 14), True)])
def test_a_redis_that_is_too_old_is_a_failure(version: tuple[int, ...], is_cluster: bool):
    """A Cluster needs a newer version, with sharded pub/sub."""
    info = ServerInfo("cache:6379", "Redis", version, 1, 100, 1000, "noeviction", 2**25, True)
    found = {finding.sentence: finding.level for finding in check_server(info, is_cluster)}
    assert level_of(found, "Redis at cache:6379 is too old") == FAIL
    (good,) = [finding for finding in check_server(info, not is_cluster) if "version" in finding.sentence]
    assert good.level == (OK if version >= (6, 2) else FAIL)
