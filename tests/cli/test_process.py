"""Running a server: signals, sockets, TLS, and the sentences with which a start is refused."""

import json
import resource
import signal
import socket
import ssl
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis_servers import free_port
from shell import PATIENCE, ROOMCAST, SECRET, Process, Running, refusal, roomcast
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from roomcast.auth.identity import make_token

TOKEN = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
URL = f"/api/v1/ws/connect?token={TOKEN}"


def greeted(client) -> bool:
    """Whether the server says who we are."""
    return json.loads(client.recv(PATIENCE))["data"]["username"] == "alice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number):
    """Clients are sent away with 1012, the process ends in order, and the log says so, without the token."""
    with Running() as server, connect(server.ws + URL) as client:
        assert greeted(client)
        server.signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "Service Restart")
        assert server.ended() == 0
    log = "\n".join(server.err)
    assert "has stopped" in log
    assert "user 1 (alice)" in log
    assert TOKEN not in log
    assert SECRET not in log
    assert server.out == []


def test_a_second_signal_ends_at_once():
    """Who will not wait for the drain need not."""
    with Running(DRAIN_SECONDS="1000") as server, ExitStack() as stack:
        assert all(greeted(stack.enter_context(connect(server.ws + URL))) for _ in range(3))
        server.signal(signal.SIGTERM)
        server.wait_for("SIGTERM", server.err)
        server.signal(signal.SIGTERM)
        assert server.ended() == -signal.SIGTERM


def test_the_start_is_a_line_in_the_log():
    """Where it listens, its version, broker and plugins, and nothing secret; as JSON if so set."""
    with Running(LOG_FORMAT="json") as server:
        line = json.loads(server.err[0])
    assert "listens on http://127.0.0.1:" in line["message"]
    assert "broker: embedded; plugins: core, chat, project, task" in line["message"]


@pytest.mark.parametrize(
    ("args", "variables", "words"),
    [
        ((), {"JWT_SECRET": ""}, "JWT_SECRET or JWT_PUBLIC_KEY must be set"),
        ((), {"JWT_SECRET": "short"}, "JWT_SECRET is 5 bytes long"),
        ((), {"WS_HEARTBEAT_INTERVAL": "often"}, "WS_HEARTBEAT_INTERVAL is 'often'"),
        (("--workers", "2"), {}, "--workers 2 needs REDIS_URL"),
        (("--tls-cert", "/no/such.pem"), {}, "/no/such.pem cannot be read: no such file"),
        (("--tls-key", "/no/such.pem"), {}, "without --tls-cert"),
        (("--tls-cert", "c.pem", "--unix-socket", "s"), {}, "--unix-socket goes without TLS"),
    ],
)
def test_what_was_given_wrong_is_said_in_one_sentence(args, variables, words):
    """Status 2, no traceback, no log."""
    assert words in refusal("serve", "--port", "0", *args, **{"JWT_SECRET": SECRET, **variables})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--host", "no-such-host.invalid"), "no-such-host.invalid"),
        (("--host", "192.0.2.1"), "no such address"),
        (("--unix-socket", "/no/such/folder/s"), "/no/such/folder/s: no such file or directory"),
        (("--unix-socket", "/tmp/" + "x" * 200), "too long"),
        (("--unix-socket", "/dev/null"), "not a socket"),
    ],
)
def test_where_a_server_cannot_listen_is_said_in_one_sentence(args, words):
    """Status 1, no traceback."""
    assert words in refusal("serve", "--port", "0", *args, status=1, JWT_SECRET=SECRET)


def test_a_port_in_use_is_refused():
    """serve does not choose another by itself, for something in front of it relies on the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refusal("serve", "--port", str(port), status=1, JWT_SECRET=SECRET)
    assert sentence == (
        f"roomcast cannot listen on 127.0.0.1, port {port}: something else listens there already; choose another port "
        "with --port."
    )


# Redis.


def test_the_broker_on_redis_is_named_without_its_password(redis_server, redis_prefix):
    """The line of the start says where the broker is, and clients are served."""
    url = f"{redis_server.url}/0?sentinel_password=pa55"
    with Running(REDIS_URL=url, REDIS_PREFIX=redis_prefix) as server:
        assert f"broker: {redis_server.url};" in server.err[0]
        with connect(server.ws + URL) as client:
            assert greeted(client)
        assert server.stop() == 0
    assert "pa55" not in "\n".join(server.err)


def test_dev_runs_on_redis_too(redis_server, redis_prefix):
    """Its first line says so."""
    with Running("dev", "--port", "0", REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix) as server:
        server.wait_for(f"for development: broker {redis_server.url}, every room open", server.out)


def test_a_redis_that_is_not_there_stops_the_start():
    """Status 1 after REDIS_WAIT, and a sentence with the address and the reason."""
    port = free_port()
    variables = {"JWT_SECRET": SECRET, "REDIS_URL": f"redis://127.0.0.1:{port}", "REDIS_WAIT": "0.3"}
    done = roomcast("serve", "--port", "0", **variables)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: Redis at 127.0.0.1:{port} cannot be reached: connection refused."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_no_password_is_said_where_nobody_tells_the_servers(kind):
    """What redis-py has to say of it is passed on, and some of its versions would write out all they were given."""
    port = free_port()
    url = f"redis+{kind}://app:pa55@127.0.0.1:{port}?sentinel_username=watch&sentinel_password=w4tch"
    done = roomcast("serve", "--port", "0", JWT_SECRET=SECRET, REDIS_URL=url, REDIS_WAIT="0.3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: Redis cannot be reached: no se")
    for secret in ("pa55", "w4tch"):
        assert secret not in done.stdout + done.stderr


def test_a_wrong_redis_url_stops_the_start():
    """Status 2, and its password is not repeated."""
    sentence = refusal("serve", "--port", "0", JWT_SECRET=SECRET, REDIS_URL="http://:pa55@cache:6379")
    assert sentence.startswith("REDIS_URL ")
    assert "pa55" not in sentence


# Unix sockets.


def test_a_unix_socket_is_served_and_removed(tmp_path):
    """A client gets in by it, and after the stop nothing is left."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)) as server:
        assert server.url == f"unix:{path}"
        with unix_connect(str(path), f"ws://localhost{URL}") as client:
            assert greeted(client)
        assert server.stop() == 0
    assert not path.exists()


def test_what_a_crashed_server_left_is_taken_over(tmp_path):
    """A socket at which nobody listens is in nobody's way."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)) as crashed:
        crashed.signal(signal.SIGKILL)
        crashed.ended()
    assert path.is_socket()
    with Running("serve", "--unix-socket", str(path)), unix_connect(str(path), f"ws://localhost{URL}") as client:
        assert greeted(client)


def test_a_socket_in_use_is_left_alone(tmp_path):
    """A second server on the same path refuses to start, and the first goes on."""
    path = tmp_path / "s"
    with Running("serve", "--unix-socket", str(path)):
        assert "Another server listens" in refusal("serve", "--unix-socket", str(path), status=1, JWT_SECRET=SECRET)
        with unix_connect(str(path), f"ws://localhost{URL}") as client:
            assert greeted(client)


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """cert.pem and key.pem for localhost, other.pem of another key, locked.pem with a passphrase."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    for file, one, lock in (
        ("key.pem", key, NoEncryption()),
        ("other.pem", ec.generate_private_key(ec.SECP256R1()), NoEncryption()),
        ("locked.pem", key, BestAvailableEncryption(b"secret")),
    ):
        (folder / file).write_bytes(one.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return folder


def test_tls_is_served(certificates):
    """A client that trusts the certificate gets in over wss."""
    cert, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    trusting = ssl.create_default_context(cafile=cert)
    with Running("serve", "--port", "0", "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        url = server.ws.replace("127.0.0.1", "localhost")
        with connect(url + URL, ssl=trusting) as client:
            assert greeted(client)
        sentence = refusal("listen", "channel:1", "--url", url, status=1, JWT_SECRET=SECRET)
        assert "its certificate is not trusted" in sentence


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("other.pem", "is the key of another certificate"),
        ("locked.pem", "without a passphrase"),
        ("cert.pem", "are not a certificate chain and its key"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(certificates, key, words):
    """The sentence says what is wrong with it; nobody is asked for a passphrase."""
    args = ("--tls-cert", str(certificates / "cert.pem"), "--tls-key", str(certificates / key))
    assert words in refusal("serve", "--port", "0", *args, JWT_SECRET=SECRET)


# The machine.


def test_the_limit_of_open_files_is_raised_and_a_low_one_is_told():
    """As far as the hard limit goes; if that is low, an operator reads it in the log."""
    script = 'ulimit -Sn 100 && ulimit -Hn 500 && exec "$@"'
    command = ("sh", "-c", script, "sh", *ROOMCAST)
    with Process("serve", "--port", "0", command=command, JWT_SECRET=SECRET) as server:
        server.wait_for("WARNING .*only 500 files", server.err)
        server.wait_for("listens on", server.err)
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (500, 500)
