"""Redis with TLS: client certificates, self-signed certificates, and errors that name the setting."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from broker_contract import ROOM, RecordingListener
from redis_groups import Cluster, SentinelTrio
from redis_servers import FreshRedis, RedisServer
from redis_tls import NEEDS_REDIS_SERVER, over_tls
from serving import Serve
from tcp_proxy import Proxy
from tls_authority import Authority
from waiting import wait_until

from roomcast.broker.memory import MemoryBroker
from roomcast.broker.redis.broker import RedisBroker
from roomcast.broker.redis.inspection import inspect_servers, rehearse
from roomcast.broker.redis.options import RedisOptions
from roomcast.broker.redis.tls import TlsFiles
from roomcast.broker.redis.urls import parse
from roomcast.errors import SettingsError, Unavailable
from roomcast.workers.reload import reload

CLIENT_REQUIRED = "TLS failed: it requires a client certificate; set REDIS_CERT and REDIS_KEY"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that signs the certificates of the server and of clients."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    """The authority and a client certificate."""
    certificate, key = authority.issue("client")
    return TlsFiles(str(authority.ca), str(certificate), str(key))


async def check(url: str, files: TlsFiles, prefix: str = "roomcast") -> None:
    """Start a broker; subscribe, publish and receive an event. Raises ``Unavailable``."""
    broker = RedisBroker(parse(url, files), RedisOptions(prefix=prefix, wait=0.5))
    listener = RecordingListener()
    await broker.start(listener)
    try:
        await broker.subscribe([ROOM])
        id = await broker.publish(ROOM, b"x")
        await listener.until(lambda: listener.events == [(ROOM, id, b"x")])
        await broker.ping()
    finally:
        await broker.close()


@asynccontextmanager
async def served(kind: str, authority: Authority) -> AsyncIterator[Any]:
    """Run Redis with TLS that requires client certificates: one server, Sentinel or a Cluster."""
    group = {"single": RedisServer, "sentinel": SentinelTrio, "cluster": Cluster}[kind]
    async with group(authority=authority) as running:
        yield running


# A proxy in front of a server.


async def test_an_authority(redis_server: RedisServer, redis_prefix: str, authority: Authority) -> None:
    """The server's certificate must be signed by the given authority."""
    async with over_tls(redis_server, authority) as url:
        await check(url, TlsFiles(str(authority.ca)), redis_prefix)
        with pytest.raises(Unavailable, match=r"TLS failed: unable to get local issuer certificate; .* in REDIS_CA"):
            await check(url, TlsFiles())


async def test_a_client_certificate(
    redis_server: RedisServer, redis_prefix: str, authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    """A server may require one. The key may be in the same file."""
    assert files.certificate is not None
    assert files.key is not None
    async with over_tls(redis_server, authority, authority.server_context(requires_client=True)) as url:
        await check(url, files, redis_prefix)
        both = tmp_path / "both.pem"
        both.write_bytes(Path(files.certificate).read_bytes() + Path(files.key).read_bytes())
        await check(url, TlsFiles(files.ca, str(both)), redis_prefix)
        with pytest.raises(Unavailable, match=r"TLS failed|the connection broke|it closed the connection"):
            await check(url, TlsFiles(files.ca), redis_prefix)


async def test_without_verification(
    redis_server: RedisServer, redis_prefix: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """REDIS_TLS_VERIFY=false accepts any certificate, and logs a warning at each start."""
    async with over_tls(redis_server, authority) as url:
        await check(url, TlsFiles(verify=False), redis_prefix)
    assert [one.levelno for one in caplog.records if "REDIS_TLS_VERIFY is false" in one.message] == [logging.WARNING]


async def test_a_server_without_tls(redis_server: RedisServer, authority: Authority) -> None:
    """The error asks whether the server uses TLS, because it does not answer."""
    broker = RedisBroker(
        parse(f"rediss://{redis_server.address}", TlsFiles(str(authority.ca))), RedisOptions(wait=1.0, timeout=0.2)
    )
    with pytest.raises(
        Unavailable, match=r"has not answered the TLS handshake \(or does it not use TLS\?\) for 0\.2 s"
    ):
        await broker.start(RecordingListener())


async def test_certificates_are_read_again(
    redis_server: RedisServer, redis_prefix: str, authority: Authority, tmp_path: Path
) -> None:
    """New connections use the files that were read last. A file that cannot be used changes nothing."""
    trusted, later = tmp_path / "trusted.pem", Authority(tmp_path / "later")
    shutil.copy(authority.ca, trusted)
    async with Proxy("127.0.0.1", redis_server.port, tls=authority.context) as proxy:
        target = parse(f"rediss://127.0.0.1:{proxy.port}", TlsFiles(str(trusted)))
        broker = RedisBroker(target, RedisOptions(prefix=redis_prefix))
        await broker.start(RecordingListener())
    try:
        renewed = Proxy("127.0.0.1", redis_server.port, tls=later.context)
        renewed.port = proxy.port
        async with renewed:
            await wait_until(lambda: "REDIS_CA" in broker._router.problems()[0], "the new certificate is refused")
            trusted.write_text("nothing here")
            with pytest.raises(SettingsError, match="holds no certificates"):
                broker.reload_certificates()
            shutil.copy(later.ca, trusted)
            assert broker.reload_certificates()
            await wait_until(lambda: not broker._router.problems(), "the new certificate is accepted")
            await broker.publish(ROOM, b"x")
    finally:
        await broker.close()
    assert not RedisBroker(parse("redis://cache")).reload_certificates()


async def test_the_reload_of_a_process(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """SIGHUP reads the certificates again. A file that cannot be used is logged, and changes nothing."""

    class Broker(MemoryBroker):
        error: SettingsError | None = None

        def reload_certificates(self) -> bool:
            if self.error is not None:
                raise self.error
            return True

    broker = Broker()
    server = await serve(broker=broker)
    caplog.set_level(logging.INFO)
    await reload(server, None)
    assert [line for line in caplog.messages if "reloaded: " in line and "the certificates for Redis" in line]
    broker.error = SettingsError("REDIS_CA /etc/ca.pem cannot be read: no such file.")
    await reload(server, None)
    assert f"reload: {broker.error} The previous value stays in use." in caplog.messages


# Servers that use TLS themselves.


@NEEDS_REDIS_SERVER
@pytest.mark.redis
@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
async def test_every_kind_of_deployment(kind: str, authority: Authority, files: TlsFiles) -> None:
    """A node, the doctor and the requests for the servers present the client certificate."""
    async with served(kind, authority) as redis:
        await check(redis.url, files)
        target = parse(redis.url, files)
        assert len(await inspect_servers(target, 5.0)) == (3 if kind == "cluster" else 1)
        await rehearse(target, "roomcast", 5.0)
        # Without verification.
        await check(redis.url, TlsFiles(None, files.certificate, files.key, verify=False))
        # The system's authorities do not help, and a certificate is required.
        for wrong in (TlsFiles(files.ca), TlsFiles(None, files.certificate, files.key)):
            with pytest.raises(Unavailable):
                await check(redis.url, wrong)


@NEEDS_REDIS_SERVER
async def test_errors_of_a_server(
    fresh_redis: FreshRedis, authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    """The errors for a missing, a foreign and an unverified certificate name the setting."""
    redis = await fresh_redis(authority=authority)
    with pytest.raises(Unavailable, match=CLIENT_REQUIRED):
        await check(redis.url, TlsFiles(files.ca))
    foreign = Authority(tmp_path / "foreign").issue("client")
    with pytest.raises(Unavailable, match=r"TLS failed: it does not trust the authority of .* REDIS_CERT"):
        await check(redis.url, TlsFiles(files.ca, *map(str, foreign)))
    with pytest.raises(Unavailable, match="give its authority in REDIS_CA"):
        await check(redis.url, TlsFiles(None, files.certificate, files.key))


@NEEDS_REDIS_SERVER
async def test_a_server_without_client_certificates(
    fresh_redis: FreshRedis, authority: Authority, files: TlsFiles
) -> None:
    """A client certificate that the server does not ask for has no effect."""
    redis = await fresh_redis(authority=authority, tls_auth_clients="no")
    await check(redis.url, TlsFiles(files.ca))
    await check(redis.url, files)


@NEEDS_REDIS_SERVER
@pytest.mark.redis
async def test_a_failover_over_tls(authority: Authority, files: TlsFiles) -> None:
    """Nodes follow Sentinel to the new primary, with the client certificate."""
    async with SentinelTrio(authority=authority) as redis:
        broker = RedisBroker(parse(redis.url, files), RedisOptions(wait=15.0))
        await broker.start(RecordingListener())
        try:
            before = await redis.kill_primary()
            await redis.failed_over(before)
            await broker.publish(ROOM, b"x")
        finally:
            await broker.close()
