"""``roomcast bench``: the correctness of its numbers, against running servers."""

import json

import pytest
from shell import SECRET, Running, refusal, roomcast

SMALL = ("--connections", "20", "--rooms", "4", "--duration", "0.5", "--json")


@pytest.fixture(scope="module")
def server():
    """A server without a rate limit."""
    with Running(WS_MESSAGE_RATE="0") as running:
        yield running


def measure(server: Running, *args: str, **variables: str) -> dict:
    """Run a bench; return its result."""
    done = roomcast("bench", "--url", server.ws, *args, JWT_SECRET=SECRET, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_with_a_rate_all_messages_arrive(server):
    """Each message is delivered to all members of its room, and none is lost."""
    result = measure(server, *SMALL, "--rate", "100")
    assert (result["connections"], result["opened"]) == (20, 20)
    assert result["published"] == 50
    assert result["expected"] == result["delivered"] == 50 * 5
    assert (result["lost"], result["errors"], result["refused"], result["closes"]) == (0, {}, {}, {})
    assert 0 < result["latency_p50"] <= result["latency_p90"] <= result["latency_p99"] <= result["latency_max"]
    assert result["handshakes_per_second"] > 0
    assert result["client_cpu"] > 0


def test_with_a_window_all_messages_arrive(server):
    """Each publisher sends the next message when it has received its own."""
    result = measure(server, *SMALL, "--window", "2", "--publishers", "3")
    assert result["published"] > 6
    assert result["expected"] == result["delivered"] == result["published"] * 5
    assert result["lost"] == 0


def test_the_default_output_is_a_table(server):
    """Progress goes to standard error, the table to standard output. Without a terminal, neither has escape codes."""
    args = ("--connections", "4", "--rooms", "1", "--duration", "1.2", "--rate", "20")
    done = roomcast("bench", "--url", server.ws, *args, JWT_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    names = [line.split("  ")[0] for line in done.stdout.splitlines() if line]
    assert names[:9] == [
        *("connections", "refused", "published", "delivered", "lost", "latency", "errors", "closed", "client CPU"),
    ]
    assert "0 of 96 expected" in done.stdout
    assert "published" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_refused_messages_are_not_lost_messages():
    """Messages over the rate limit are counted by their error code, and a note explains what to do."""
    with Running(WS_MESSAGE_RATE="1") as strict:
        result = measure(strict, "--connections", "4", "--rooms", "1", "--duration", "0.5", "--rate", "20", "--json")
        assert set(result["errors"]) == {"rate_limited"}
        assert result["published"] + result["errors"]["rate_limited"] == 10
        assert result["expected"] == result["delivered"] == 4 * result["published"]
        assert any("WS_MESSAGE_RATE=0" in note for note in result["notes"])


def test_one_token_for_all_connections_exceeds_the_limit_of_a_user(server):
    """The command first prints a warning. Connections over the limit count as refused, by their close code."""
    token = roomcast("token", "--user-id", "1", "--room", "*", JWT_SECRET=SECRET).stdout.strip()
    args = ("--connections", "7", "--rooms", "1", "--duration", "0.2", "--json")
    done = roomcast("bench", "--url", server.ws, *args, "--token", token)
    assert done.returncode == 0, done.stderr
    assert "MAX_CONNECTIONS_PER_USER" in done.stderr
    result = json.loads(done.stdout)
    assert (result["connections"], result["opened"]) == (7, 5)
    assert (result["refused"], result["closes"]) == ({"4429 Too Many Connections": 2}, {})
    assert result["lost"] == 0
    table = roomcast("bench", "--url", server.ws, *args[:-1], "--token", token).stdout
    assert "5 of 7 opened" in table
    assert "refused      2 x 4429 Too Many Connections" in table


def test_a_bench_that_cannot_run_is_one_sentence(server):
    """No token, no server, a refused token, and more connections than open files each print one sentence."""
    assert "JWT_SECRET" in refusal("bench", "--connections", "1")
    assert "cannot be reached" in refusal("bench", "--url", "ws://127.0.0.1:1", status=3, JWT_SECRET=SECRET)
    few = ("bench", "--url", server.ws, "--connections", "2")
    assert "2 x 4401 Authentication Failed" in refusal(*few, status=4, JWT_SECRET=SECRET[::-1])
    assert "open files" in refusal("bench", "--connections", "100000000", JWT_SECRET=SECRET)
