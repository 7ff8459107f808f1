"""``roomcast dev``: the text that it prints, and its permissive settings."""

import json
import re
import shlex
import subprocess
import urllib.request

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from shell import API_KEY, ROOMCAST, SECRET, TASK, Process, Running, environment, roomcast, run_curl
from websockets.sync.client import connect

from roomcast.auth.identity import Authenticator
from roomcast.settings import Settings


@pytest.fixture(scope="module")
def dev():
    """A server for development, without any settings."""
    with Running("dev", "--port", "0") as running:
        running.wait_for("Ctrl-C", running.out)
        yield running


def test_dev_prints_a_link_to_the_console_with_a_token(dev):
    """The link has the bound port and a token in its fragment, and the page exists."""
    link = next(line.strip() for line in dev.out if "/console#token=" in line)
    assert link.startswith(f"{dev.url}/console#token=ey")
    with urllib.request.urlopen(link.partition("#")[0]) as page:
        assert page.status == 200


def test_the_printed_lines_work_unchanged(dev):
    """A client that runs the wscat line and sends the next one receives the event of the curl line."""
    at = next(number for number, line in enumerate(dev.out) if line.strip().startswith("wscat "))
    program, option, url = shlex.split(dev.out[at])
    assert (program, option) == ("wscat", "-c")
    with connect(url) as client:
        assert json.loads(client.recv(10))["type"] == "connected"
        client.send(dev.out[at + 1].strip())
        assert json.loads(client.recv(10))["type"] == "joined_room"
        assert json.loads(client.recv(10))["type"] == "user_joined"
        answer = run_curl(next(line.strip() for line in dev.out if line.strip().startswith("curl ")))
        event = json.loads(client.recv(10))
    assert (event["type"], event["room"], event["sender"]) == ("task.created", "project:1", "curl")
    assert event["id"] == answer["id"]


def test_the_exported_variables_suffice_for_the_other_commands(dev):
    """In another shell, publish, listen and token work with them, and the server accepts the token."""
    exports = next(line.strip() for line in dev.out if line.strip().startswith("export "))
    names = re.findall(r"([A-Z_]+)=", exports)
    assert names == ["ROOMCAST_TOKEN", "API_KEY", "JWT_SECRET", "ROOMCAST_URL"]
    ours = dict(word.split("=", 1) for word in shlex.split(exports)[1:])
    with Process("listen", "project:1", **ours) as listener:
        listener.wait_for("Listening in project:1", listener.err)
        done = subprocess.run(
            f"{exports}\n{shlex.join([*ROOMCAST, 'publish', 'task.deleted', 'project:1', TASK[:13] + '}'])}",
            **{"shell": True, "env": environment(), "capture_output": True, "text": True, "timeout": 30},
        )
        assert done.returncode == 0, done.stderr
        listener.wait_for(r"project:1 task\.deleted .*7", listener.out)
    token = roomcast("token", "--user-id", "9", **ours).stdout.strip()
    with connect(f"{dev.ws}/api/v1/ws/connect?token={token}") as client:
        assert json.loads(client.recv(10))["data"]["user_id"] == 9


def test_dev_names_what_is_open(dev):
    """The first line contains "for development", and which rooms and origins are open."""
    assert dev.out[0].endswith("rooms: open to all users; origins: all)")
    with Running("dev", "--port", "0", ROOM_ACCESS="claims", ALLOWED_ORIGINS="https://a.example") as running:
        running.wait_for("rooms: by ROOM_ACCESS; origins: by ALLOWED_ORIGINS", running.out)


def test_dev_names_its_plugins_in_one_line(dev):
    """The text contains the loaded plugins."""
    assert any(re.match("Plugins: .*chat.*project.*task", line) for line in dev.out)


def test_dev_logs_no_secret(dev):
    """Neither the token nor the API key of the run is in the log."""
    text = "\n".join(dev.out)
    token = re.search(r"#token=(\S+)", text)[1]
    key = re.search(r"Bearer ([^'\"]+)", text)[1]
    log = "\n".join(dev.err)
    assert token not in log
    assert key not in log


def test_dev_takes_the_next_port_if_its_own_is_in_use(server):
    """The text of the second server contains the port that it took."""
    port = int(server.url.rpartition(":")[2])
    with Running("dev", "--port", str(port)) as second:
        second.wait_for(f"Port {port} is in use", second.out)
        other = int(second.url.rpartition(":")[2])
        assert port < other <= port + 20
        second.wait_for(f":{other}/console", second.out)


def test_dev_keeps_the_secret_and_the_key_that_are_set():
    """Tokens signed with the JWT_SECRET of the environment are valid, and the secret is not printed."""
    with Running("dev", "--port", "0", JWT_SECRET=SECRET, API_KEY=API_KEY) as running:
        running.wait_for(f"Bearer {API_KEY}", running.out)
        token = running.wait_for(r"#token=(\S+)", running.out)[1]
        running.wait_for("Ctrl-C", running.out)
        assert SECRET not in "\n".join(running.out)
    assert Authenticator(Settings(jwt_secret=SECRET)).verify(token).username == "dev"


def test_dev_makes_no_token_with_a_public_key(tmp_path):
    """Another program signs the tokens, so the printed lines contain the placeholder TOKEN."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with Running("dev", "--port", "0", JWT_PUBLIC_KEY=str(tmp_path / "key.pem")) as running:
        running.wait_for(r"/console$", running.out)
        running.wait_for(r"token=TOKEN'", running.out)


def test_dev_runs_on_redis_too(redis_server, redis_prefix):
    """The first line that dev prints names Redis as the broker."""
    with Running("dev", "--port", "0", REDIS_URL=redis_server.url, REDIS_PREFIX=redis_prefix) as server:
        server.wait_for(f"for development .broker: {redis_server.url}; rooms: open to all users", server.out)
