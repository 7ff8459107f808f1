"""The address of a server, parsed from a URL."""

import pytest

from roomcast.cli.target import PATH, Target, parse_target
from roomcast.errors import RoomcastError
from roomcast.web.upgrade import handshake


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://127.0.0.1:8000", Target("127.0.0.1", 8000, PATH, False)),
        ("http://127.0.0.1:8000/", Target("127.0.0.1", 8000, PATH, False)),
        ("wss://chat.example.com", Target("chat.example.com", 443, PATH, True)),
        ("https://[::1]:8443/ws?token=a", Target("::1", 8443, "/ws?token=a", True)),
        ("ws://h:1?token=a", Target("h", 1, f"{PATH}?token=a", False)),
    ],
)
def test_a_url_is_parsed(url, expected):
    """HTTP and WebSocket URLs are accepted, and the path is optional."""
    assert parse_target(url) == expected


def test_the_default_path_is_that_of_the_server():
    """The default path is the one at which the server accepts WebSockets."""
    assert handshake.PATH == PATH


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://h", "ws://", "ws://h:99999", "ws://[::1"])
def test_a_wrong_url_is_refused(url):
    """The error sentence contains an example."""
    with pytest.raises(RoomcastError, match=r"like ws://127\.0\.0\.1:8000"):
        parse_target(url)
