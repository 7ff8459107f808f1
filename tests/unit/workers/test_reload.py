"""SIGHUP: certificates and keys are read again, in all workers, and no connection is closed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from certificate_files import write_certificate
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from handshakes import serving
from redis_servers import RedisServer
from shell import API_KEY, PATIENCE, SECRET, Running
from waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from roomcast.auth.identity import make_token
from roomcast.cli.serve import create_tls_context
from roomcast.web.port import Address
from roomcast.workers import reload

pytestmark = pytest.mark.slow

OLD, NEW = SECRET, "another secret of the tests: long enough, too"


def path(secret: str, algorithm: str = "HS256") -> str:
    """Return the path with which a user connects, with a token that was signed with ``secret``."""
    token = make_token(secret, user_id=1, username="alice", rooms=["*"], algorithm=algorithm)
    return f"/api/v1/ws/connect?token={token}"


def first_frame(client: ClientConnection) -> str:
    """Return the type of the first frame, or the close code."""
    try:
        return str(json.loads(client.recv(PATIENCE))["type"])
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return str(closed.rcvd.code)


def is_open(client: ClientConnection) -> bool:
    """Return True if the server answers a command of ``client``."""
    client.send('{"type":"ping","id":"alive"}')
    while True:
        frame = json.loads(client.recv(PATIENCE))
        if frame.get("id") == "alive":
            return frame["type"] == "pong"


def accepts(server: Running, where: str) -> bool:
    """Return True if the server welcomes a client that connects to ``where``."""
    with connect(server.ws + where) as client:
        return first_frame(client) == "connected"


def status(server: Running, key: str) -> int:
    """Return the status of a call of the HTTP API with ``key``."""
    request = urllib.request.Request(f"{server.url}/api/v1/rooms", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


class Reloads:
    """Sends SIGHUP to ``server`` and waits until all its processes have logged the reload."""

    def __init__(self, server: Running, workers: int = 1) -> None:
        self._server = server
        self._workers = workers
        self._count = 0

    def __call__(self) -> str:
        """Return the text after "reloaded: " in the last line."""
        self._count += self._workers
        self._server.signal(signal.SIGHUP)
        return self._server.wait_for("reloaded: (.+)", self._server.err, times=self._count)[1]


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Variables with the secret and the API key in files, ``secret`` and ``key`` in ``tmp_path``."""
    (tmp_path / "secret").write_text(OLD)
    (tmp_path / "key").write_text(API_KEY)
    files = {"JWT_SECRET_FILE": str(tmp_path / "secret"), "API_KEY_FILE": str(tmp_path / "key")}
    return {"JWT_SECRET": "", "API_KEY": "", **files}


def test_secrets_are_rotated(tmp_path: Path, secrets: dict[str, str]) -> None:
    """First both secrets count, then only the new one. A connection with a token of the old one stays open."""
    with Running(**secrets) as server, connect(server.ws + path(OLD)) as client:
        reload = Reloads(server)
        assert first_frame(client) == "connected"
        assert not accepts(server, path(NEW))
        (tmp_path / "secret").write_text(f"{NEW}\n{OLD}\n")
        (tmp_path / "key").write_text(f"new-{API_KEY}\n{API_KEY}\n")
        assert reload() == "the keys of tokens, the API keys"
        assert accepts(server, path(NEW)) and accepts(server, path(OLD))
        assert status(server, API_KEY) == status(server, f"new-{API_KEY}") == 200
        (tmp_path / "secret").write_text(NEW)
        (tmp_path / "key").write_text(f"new-{API_KEY}")
        assert reload() == "the keys of tokens, the API keys"
        assert accepts(server, path(NEW)) and not accepts(server, path(OLD))
        assert (status(server, API_KEY), status(server, f"new-{API_KEY}")) == (401, 200)
        assert is_open(client)
        assert reload() == "nothing has changed"
        assert server.stop() == 0
    assert not any(secret in line for line in server.err for secret in (OLD, NEW, API_KEY))


def test_named_keys_are_replaced(tmp_path: Path, secrets: dict[str, str]) -> None:
    """After SIGHUP, a new key is accepted with its scopes, and a removed one is not. A mistake keeps the old keys."""
    named, first, second = tmp_path / "named.json", "first-key-of-billing-0", "second-key-of-billing-0"
    named.write_text(json.dumps({"billing": {"key": first, "scopes": ["read"]}}))
    with Running(**secrets, API_KEYS_FILE=str(named)) as server:
        reload = Reloads(server)
        assert (status(server, first), status(server, second), status(server, API_KEY)) == (200, 401, 200)
        named.write_text(json.dumps({"billing": {"key": [first, second], "scopes": ["read"]}}))
        assert reload() == "the API keys"
        assert (status(server, first), status(server, second)) == (200, 200)
        named.write_text(json.dumps({"billing": {"key": second, "scopes": ["publish"]}}))
        assert reload() == "the API keys"
        assert (status(server, first), status(server, second)) == (401, 403)
        named.write_text("{")
        assert reload() == "nothing has changed"
        server.wait_for("reload: API_KEYS is not JSON .* The previous value stays in use", server.err)
        assert (status(server, second), status(server, API_KEY)) == (403, 200)
        assert server.stop() == 0
    assert not any(key in line for line in server.err for key in (first, second))


@pytest.mark.parametrize("content", ["short", "", None], ids=["short", "empty", "missing"])
def test_a_wrong_secret_is_not_used(tmp_path: Path, secrets: dict[str, str], content: str | None) -> None:
    """The previous secret stays in use, and the log names the variable. Other settings are reloaded."""
    with Running(**secrets) as server:
        (tmp_path / "key").write_text(f"new-{API_KEY}")
        if content is None:
            (tmp_path / "secret").unlink()
        else:
            (tmp_path / "secret").write_text(content)
        assert Reloads(server)() == "the API keys"
        server.wait_for("ERROR .*reload: JWT_SECRET.* The previous value stays in use", server.err)
        assert accepts(server, path(OLD))
        assert status(server, f"new-{API_KEY}") == 200


def test_a_public_key_is_replaced(tmp_path: Path) -> None:
    """The file of JWT_PUBLIC_KEY is read again."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    private = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() for key in keys]
    public = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    file = tmp_path / "public.pem"
    file.write_bytes(public[0])
    with Running(JWT_SECRET="", JWT_PUBLIC_KEY=str(file)) as server:
        reload = Reloads(server)
        assert accepts(server, path(private[0], "ES256")) and not accepts(server, path(private[1], "ES256"))
        file.write_bytes(public[1] + public[0])
        reload()
        assert accepts(server, path(private[0], "ES256")) and accepts(server, path(private[1], "ES256"))
        file.write_bytes(b"garbage")
        reload()
        server.wait_for("ERROR .*reload: JWT_PUBLIC_KEY is not a public key", server.err)
        assert accepts(server, path(private[1], "ES256"))


def served_certificate(server: Running) -> x509.Certificate:
    """Return the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = server.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as plain, context.wrap_socket(plain) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_a_certificate_is_replaced(tmp_path: Path) -> None:
    """New connections get the new certificate, and the others stay. A wrong certificate is not used."""
    file = tmp_path / "both.pem"
    first = write_certificate(file)
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    with Running("serve", "--port", "0", "--tls-cert", str(file)) as server, ExitStack() as stack:
        reload = Reloads(server)
        clients = [stack.enter_context(connect(server.ws + path(OLD), ssl=unverified))]
        assert served_certificate(server) == first
        for _ in range(2):
            newest = write_certificate(file)
            assert reload() == "the TLS certificate"
            assert served_certificate(server) == newest
            clients.append(stack.enter_context(connect(server.ws + path(OLD), ssl=unverified)))
        valid = file.read_bytes()
        write_certificate(file)
        for wrong in (b"garbage", file.read_bytes()[:300], valid[: valid.index(b"-----BEGIN CERT")]):
            file.write_bytes(wrong)
            assert reload() == "nothing has changed"
            assert served_certificate(server) == newest
        write_certificate(file, timedelta(days=-2), timedelta(days=-1))
        assert reload() == "nothing has changed"
        assert any("ERROR" in line and f"reload: --tls-cert {file} expired on" in line for line in server.err)
        assert served_certificate(server) == newest
        assert sum("ERROR" in line and f"reload: --tls-cert {file}" in line for line in server.err) == 4
        assert all(first_frame(client) == "connected" and is_open(client) for client in clients)


def test_all_workers_reload(
    tmp_path: Path, secrets: dict[str, str], redis_server: RedisServer, redis_prefix: str
) -> None:
    """SIGHUP to the supervisor reloads each worker, and a signal to a single worker reloads that one."""
    file = tmp_path / "both.pem"
    write_certificate(file)
    variables = {**secrets, "REDIS_URL": redis_server.url, "REDIS_PREFIX": redis_prefix}
    command = ("serve", "--port", "0", "--workers", "2", "--tls-cert", str(file))
    with Running(*command, **variables) as server:
        newest = write_certificate(file)
        (tmp_path / "key").write_text(f"new-{API_KEY}")
        assert Reloads(server, workers=2)() == "the API keys, the TLS certificate"
        assert [served_certificate(server) for _ in range(8)] == [newest] * 8
        assert server.stop() == 0


@pytest.mark.parametrize(("end", "words"), [(timedelta(seconds=2), "expired on"), (timedelta(days=30), None)])
async def test_the_certificate_in_use_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, end: timedelta, words: str | None
) -> None:
    """A certificate that expires while the server runs is a warning every day, until another one is loaded."""
    monkeypatch.setattr(reload, "_CHECK_INTERVAL", 0.05)
    write_certificate(tmp_path / "both.pem", timedelta(days=-60), end)
    write_certificate(tmp_path / "new.pem", timedelta(days=-1), timedelta(days=90))
    address = Address(port=0, tls=create_tls_context(tmp_path / "both.pem", None))
    async with serving(address=address) as running:
        watching = asyncio.create_task(reload.watch_certificate(running.server))
        try:
            if words is not None:
                await wait_until(lambda: sum(words in record.message for record in caplog.records) > 1)
            running.server.use_certificate(create_tls_context(tmp_path / "new.pem", None))
            caplog.clear()
            await asyncio.sleep(0.2)
            assert not caplog.records
        finally:
            watching.cancel()
