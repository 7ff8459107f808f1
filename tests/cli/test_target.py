"""The address of a server, parsed from a URL."""

import pytest

from roomcast.cli.target import Target, parse_target
from roomcast.errors import RoomcastError
from roomcast.web.upgrade import handshake
from roomcast.web.upgrade.handshake import PATH


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://127.0.0.1:8000", Target("127.0.0.1", 8000, PATH, False)),
        ("http://127.0.0.1:8000/", Target("127.0.0.1", 8000, PATH, False)),
        ("wss://chat.example.com", Target("chat.example.com", 443, PATH, True)),
        ("ws://h:1?token=a", Target("h", 1, f"{PATH}?token=a", False)),
        ("ws://h:1/?token=a", Target("h", 1, f"{PATH}?token=a", False)),
        ("https://[::1]:8443/rt", Target("::1", 8443, f"/rt{PATH}", True, "/rt")),
        ("https://example.com/rt/", Target("example.com", 443, f"/rt{PATH}", True, "/rt")),
        ("http://h:1/a%2Fb/c//?token=a", Target("h", 1, f"/a%2Fb/c{PATH}?token=a", False, "/a%2Fb/c")),
        (f"ws://h:1{PATH}?token=a", Target("h", 1, f"{PATH}?token=a", False)),
        (f"wss://example.com/rt{PATH}/", Target("example.com", 443, f"/rt{PATH}", True, "/rt")),
    ],
)
def test_a_url_is_parsed(url, expected):
    """HTTP and WebSocket URLs are accepted. The path is optional, and may be that of the WebSocket."""
    assert parse_target(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://h:1", "http://h:1"),
        ("wss://[::1]/rt/", "https://[::1]:443/rt"),
        (f"wss://example.com/rt{PATH}?token=a", "https://example.com:443/rt"),
    ],
)
def test_the_http_url(url, expected):
    """It has the path below which the server is served, and neither the path of the WebSocket nor the query."""
    assert parse_target(url).http == expected


def test_the_default_path_is_that_of_the_server():
    """The default path is the one at which the server accepts WebSockets."""
    assert handshake.PATH == PATH


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://h", "ws://", "ws://h:99999", "ws://[::1"])
def test_a_wrong_url_is_refused(url):
    """The error sentence contains an example."""
    with pytest.raises(RoomcastError, match=r"like http://127\.0\.0\.1:8000"):
        parse_target(url)
