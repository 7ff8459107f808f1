"""``roomcast serve``: its options, and TLS."""

import http.cookiejar
import json
import re
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from certificate_files import write_certificate
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from shell import API_KEY, PATIENCE, SECRET, Running, refusal
from websockets.sync.client import connect

from roomcast.auth.identity import make_token

TOKEN = make_token(SECRET, user_id=1, username="alice", rooms=["*"])
URL = f"/api/v1/ws/connect?token={TOKEN}"


@pytest.mark.parametrize(
    ("args", "variables", "words"),
    [
        ((), {"JWT_SECRET": ""}, "JWT_SECRET or JWT_PUBLIC_KEY must be set"),
        ((), {"JWT_SECRET": "short"}, "JWT_SECRET is 5 bytes long"),
        ((), {"WS_HEARTBEAT_INTERVAL": "often"}, "WS_HEARTBEAT_INTERVAL is 'often'"),
        (("--workers", "2"), {}, "--workers 2 needs REDIS_URL"),
        ((), {"ROOM_CHANEL_HISTORY_SIZE": "5"}, "did you mean ROOM_CHANNEL_HISTORY_SIZE?"),
        ((), {"ROOM_TASK_HISTORY_TTL": "5", "HISTORY_SIZE": "0"}, "ROOM_TASK_HISTORY_TTL is 5, but task rooms keep no"),
        (
            ("--workers", "2"),
            {"REDIS_URL": "redis://127.0.0.1:1", "ROOM_TASK_COMMANDS": "vote"},
            "ROOM_TASK_COMMANDS is 'vote', but no plugin declares a command 'vote'",
        ),
        (("--tls-cert", "/no/such.pem"), {}, "/no/such.pem cannot be read: no such file"),
        (("--tls-key", "/no/such.pem"), {}, "without --tls-cert"),
        (("--tls-cert", "c.pem", "--unix-socket", "s"), {}, "--unix-socket does not work with TLS"),
    ],
)
def test_wrong_options_and_settings_are_one_sentence(args, variables, words):
    """The exit status is 2, and there is no traceback and no log line."""
    assert words in refusal("serve", "--port", "0", *args, **{"JWT_SECRET": SECRET, **variables})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with cert.pem and key.pem for localhost, other.pem (another key) and locked.pem (with a passphrase)."""
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
    """A client that trusts the certificate connects over wss; ``listen``, which does not trust it, reports that."""
    cert, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    trusting = ssl.create_default_context(cafile=cert)
    with Running("serve", "--port", "0", "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        url = server.ws.replace("127.0.0.1", "localhost")
        with connect(url + URL, ssl=trusting) as client:
            assert json.loads(client.recv(PATIENCE))["data"]["username"] == "alice"
        sentence = refusal("listen", "channel:1", "--url", url, status=3, JWT_SECRET=SECRET)
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
    """The sentence contains the fault, and OpenSSL does not ask for a passphrase."""
    args = ("--tls-cert", str(certificates / "cert.pem"), "--tls-key", str(certificates / key))
    assert words in refusal("serve", "--port", "0", *args, JWT_SECRET=SECRET)


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (timedelta(days=-90), timedelta(hours=-1), "both.pem expired on "),
        (timedelta(hours=1), timedelta(days=90), "both.pem is not valid before "),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_refused(tmp_path, begin, end, words):
    """No client would accept it. Without the check, the clients would be the first to report it."""
    write_certificate(tmp_path / "both.pem", begin, end)
    sentence = refusal("serve", "--port", "0", "--tls-cert", str(tmp_path / "both.pem"), JWT_SECRET=SECRET)
    assert words in sentence
    assert "correct this machine's clock" in sentence


def test_a_certificate_that_is_about_to_expire_is_a_warning(tmp_path):
    """The server starts. The log and the metrics have the time."""
    certificate = write_certificate(tmp_path / "both.pem", timedelta(days=-80), timedelta(days=10))
    end = certificate.not_valid_after_utc
    trusting = ssl.create_default_context(cafile=tmp_path / "both.pem")
    with Running("serve", "--port", "0", "--tls-cert", str(tmp_path / "both.pem"), JWT_SECRET=SECRET) as server:
        server.wait_for(f"the TLS certificate in use expires on {end:%Y-%m-%d %H:%M} UTC; renew it", server.err)
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE, context=trusting) as response:
            (line,) = re.findall(r"^roomcast_certificate_expires (.*)$", response.read().decode(), re.MULTILINE)
        assert float(line) == end.timestamp()


def test_tracebacks_are_not_served_in_production():
    """``/console/problems`` does not exist, also for the logged-in page of the console and with the API key."""
    with Running(CONSOLE="true") as server:
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        login = urllib.request.Request(f"{server.url}/console/login", urlencode({"key": API_KEY}).encode())
        with opener.open(login, timeout=PATIENCE) as response:
            page = response.read().decode()
        assert [cookie.name for cookie in jar] == ["roomcast_console"]
        assert "problems-list" not in page
        for headers in ({"X-Roomcast-Console": "1"}, {"Authorization": f"Bearer {API_KEY}"}):
            request = urllib.request.Request(f"{server.url}/console/problems", headers=headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                opener.open(request, timeout=PATIENCE)
            with refused.value:
                assert refused.value.code == 404
