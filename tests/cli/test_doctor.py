"""``roomcast doctor``: its findings about the environment, Redis and a running server."""

import asyncio
import re
from datetime import timedelta

import pytest
from certificate_files import write_certificate
from redis_servers import FreshRedis, RedisServer, free_port
from shell import API_KEY, SECRET, Running, roomcast

from roomcast import fastpath


def test_a_good_deployment_passes(server):
    """No check of the environment or of the running server fails."""
    done = roomcast("doctor", "--url", server.url, JWT_SECRET=SECRET, API_KEY=API_KEY)
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert re.search("^OK .*opens and sends `connected`", done.stdout, re.MULTILINE)


def test_every_wrong_setting_is_reported():
    """Each wrong setting is a failure of its own, and a name that is similar to a setting is a warning."""
    bad = {"JWT_SECRET": "short", "DRAIN_SECONDS": "-1", "LOG_FORMAT": "xml", "WS_MESAGE_RATE": "5"}
    done = roomcast("doctor", "--port", "0", **bad)
    assert done.returncode == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 3
    assert all(any(name in line for line in failures) for name in ("JWT_SECRET", "DRAIN_SECONDS", "LOG_FORMAT"))
    assert re.search("^WARN .*WS_MESAGE_RATE.*WS_MESSAGE_RATE", done.stdout, re.MULTILINE)
    assert "short" not in done.stdout


def test_a_port_in_use_and_a_server_with_another_secret_fail(server):
    """Both are failures, and each contains the reason."""
    port = server.url.rpartition(":")[2]
    done = roomcast("doctor", "--port", port, JWT_SECRET=SECRET)
    assert done.returncode == 1
    assert f"FAIL  Port {port} on 127.0.0.1 is in use" in done.stdout
    done = roomcast("doctor", "--url", server.url, JWT_SECRET=SECRET[::-1])
    assert done.returncode == 1
    assert re.search("^FAIL .*does not accept a token made with this JWT_SECRET", done.stdout, re.MULTILINE)


def test_redis_is_checked(redis_server: RedisServer, redis_prefix: str):
    """The findings include those about Redis, without a log line and without the password."""
    port = free_port()
    variables = {"JWT_SECRET": SECRET, "REDIS_PREFIX": redis_prefix, "REDIS_WAIT": "0.3"}
    done = roomcast("doctor", "--port", "0", REDIS_URL=redis_server.url, **variables)
    assert "OK    Redis performs all operations that a node needs." in done.stdout.splitlines()
    assert done.returncode == 0
    done = roomcast("doctor", "--port", "0", REDIS_URL=f"redis://:pa55@127.0.0.1:{port}", **variables)
    assert f"FAIL  Redis at 127.0.0.1:{port} cannot be reached: connection refused." in done.stdout.splitlines()
    assert done.returncode == 1
    assert done.stderr == ""
    assert "pa55" not in done.stdout


async def test_a_server_that_is_not_ready(fresh_redis: FreshRedis):
    """With the API key of the server, the finding names the Redis server that cannot be reached."""
    redis = await fresh_redis()
    with await asyncio.to_thread(Running, REDIS_URL=redis.url) as server:
        redis.kill()
        with_key = {"JWT_SECRET": SECRET, "API_KEY": API_KEY}
        for variables, is_named in ((with_key, True), ({"JWT_SECRET": SECRET}, False)):
            done = await asyncio.to_thread(roomcast, "doctor", "--url", server.url, **variables)
            assert done.returncode == 1
            assert "answers with HTTP status 503" in done.stdout
            assert (redis.address in done.stdout) is is_named
            assert API_KEY not in done.stdout


@pytest.mark.parametrize("native", ["0", "1"])
def test_missing_c_code_is_a_warning(native: str):
    """The warning explains what to do. ROOMCAST_NATIVE is not reported as a misspelt setting."""
    done = roomcast("doctor", JWT_SECRET=SECRET, ROOMCAST_NATIVE=native)
    is_reported = "WARN" in done.stdout and "25 to 50 % more CPU time. Install a C compiler" in done.stdout
    assert is_reported is (native == "0" or not fastpath.IS_NATIVE)
    assert "ROOMCAST_NATIVE" not in done.stdout


@pytest.mark.parametrize(("end", "finding"), [(60, "OK    .* is valid until"), (10, "WARN  .* expires on")])
def test_the_certificate_of_a_running_server_is_checked(tmp_path, end, finding):
    """A trusted certificate that is about to expire is a warning; one that is not trusted is a failure."""
    file = tmp_path / "both.pem"
    write_certificate(file, timedelta(days=-80), timedelta(days=end))
    variables = {"JWT_SECRET": SECRET, "API_KEY": API_KEY}
    with Running("serve", "--port", "0", "--tls-cert", str(file), **variables) as server:
        done = roomcast("doctor", "--url", server.url, "--tls-cert", str(file), SSL_CERT_FILE=str(file), **variables)
        assert done.returncode == 0, done.stdout
        for name in (str(file), server.url.removeprefix("https://")):
            assert re.search(finding.replace(".*", f"The certificate (of )?{re.escape(name)}"), done.stdout), (
                done.stdout
            )
        done = roomcast("doctor", "--url", server.url, **variables)
        assert done.returncode == 1
        assert "its certificate is not trusted" in done.stdout
