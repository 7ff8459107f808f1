"""The console over HTTP: logins, cookies, security headers, and the data of the page."""

import json
import re

import aiohttp
import pytest
from console_pages import KEY, deploy, serving, url
from wire import Peer

from roomcast.builtin_events import COMMANDS
from roomcast.errors import CLOSES
from roomcast.specs.core_frames import CORE_COMMANDS
from roomcast.web import console_session
from roomcast.web.pages.console import MEANINGS

#: The header that the console's own calls have.
OURS = {console_session.HEADER: "1"}


@pytest.mark.parametrize("path", ["/console", "/console/static/console.js", "/console/login", "/console/token"])
async def test_console_is_off_by_default(path):
    """Without CONSOLE=1 every path of the console is answered with 404."""
    async with serving(api_key=KEY) as server, aiohttp.ClientSession(headers=OURS) as http:
        for method in ("GET", "POST"):
            async with http.request(method, url(server, path), data={"key": KEY}) as answer:
                assert answer.status == 404


async def test_console_without_an_api_key_refuses_logins(caplog):
    """With CONSOLE=1 and no API_KEY, the log and the page tell the operator to set the key."""
    async with serving(console=True) as server, aiohttp.ClientSession() as http:
        assert "set that, too" in caplog.text
        for method in ("GET", "POST"):
            path = "/console" if method == "GET" else "/console/login"
            async with http.request(method, url(server, path), data={"key": ""}) as answer:
                text = await answer.text()
                assert answer.status == 503
                assert "Set <code>API_KEY</code>" in text
                assert "<form" not in text


async def test_login_requires_the_api_key():
    """A wrong key is refused with a message. The right one sets a cookie that opens the console."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        async with http.post(url(server, "/console/login"), data={"key": KEY[:-1]}) as answer:
            assert answer.status == 403
            assert "not a key of this server" in await answer.text()
            assert not answer.cookies
        async with http.get(url(server)) as answer:
            assert 'name="key"' in await answer.text()
        async with http.post(url(server, "/console/login"), data={"key": KEY}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "../console")
        async with http.get(url(server)) as answer:
            assert 'id="log-rows"' in await answer.text()


async def test_login_attempts_are_limited_per_address():
    """After five wrong keys from one address a wrong key gets 429 and the time to wait. The right key is accepted."""
    async with serving(console=True, api_key=KEY, trust_proxy="true") as server, aiohttp.ClientSession() as http:
        login, here = url(server, "/console/login"), {"X-Forwarded-For": "10.0.0.1"}
        statuses = []
        for key in [KEY, *("wrong" * n for n in range(6)), KEY, "wrong"]:
            async with http.post(login, data={"key": key}, headers=here, allow_redirects=False) as answer:
                statuses.append(answer.status)
                text, wait = await answer.text(), answer.headers.get("Retry-After")
        assert statuses == [303, *[403] * 5, 429, 303, 429]
        assert 0 < int(wait) <= 60
        assert f"try again in {wait} s" in text
        there = {"X-Forwarded-For": "10.0.0.2"}
        async with http.post(login, data={"key": KEY}, headers=there, allow_redirects=False) as answer:
            assert answer.status == 303


@pytest.mark.slow
async def test_incomplete_login_form_times_out():
    """A client that sends half of a form gets 408 and is disconnected."""
    async with serving(console=True, api_key=KEY, handshake_timeout=0.1) as server:
        peer = await Peer.connect(("127.0.0.1", server.port))
        head = "POST /console/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        await peer.send(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nkey=".encode())
        assert (await peer.head()).startswith(b"HTTP/1.1 408 ")
        await peer.wait_until_closed()
        peer.close()


async def test_cookie_requires_the_header_and_origin_of_the_console():
    """A call with the cookie needs the console's header and, if it has an Origin, that of the server."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        logout = url(server, "/console/logout")
        async with http.post(logout, headers=OURS) as answer:
            assert answer.status == 403
        await http.post(url(server, "/console/login"), data={"key": KEY})
        for headers in ({}, OURS | {"Origin": "https://evil.example"}, OURS | {"Origin": "null"}):
            async with http.post(logout, headers=headers) as answer:
                assert answer.status == 403
        async with http.post(logout, headers=OURS | {"Origin": f"http://127.0.0.1:{server.port}"}) as answer:
            assert answer.status == 204
        async with http.get(url(server)) as answer:
            assert 'name="key"' in await answer.text()


def jar() -> aiohttp.CookieJar:
    """Return a cookie jar that accepts cookies from IP addresses."""
    return aiohttp.CookieJar(unsafe=True)


async def test_made_up_users_exist_in_dev_only():
    """Other servers issue no tokens for made-up users, not even after a login."""
    async with serving(console=True, api_key=KEY) as server, aiohttp.ClientSession(cookie_jar=jar()) as http:
        await http.post(url(server, "/console/login"), data={"key": KEY})
        async with http.post(
            url(server, "/console/token"), json={"username": "a", "user_id": 1}, headers=OURS
        ) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("user", "field"),
    [
        ({"username": "", "user_id": 1}, "username"),
        ({"username": "alice", "user_id": ".."}, "user_id"),
        ({"username": "alice", "user_id": 1, "rooms": "channel:1"}, "rooms"),
        ([], None),
    ],
)
async def test_invalid_made_up_user_is_refused(user, field):
    """The answer names the invalid field. A body that is not JSON is refused as well."""
    async with serving(dev=True) as server, aiohttp.ClientSession() as http:
        async with http.post(url(server, "/console/token"), json=user, headers=OURS) as answer:
            body = await answer.json()
            assert answer.status == 422
            assert list(body["fields"]) == ([field] if field else [])
        async with http.post(url(server, "/console/token"), data=b"{", headers=OURS) as answer:
            assert (answer.status, (await answer.json())["code"]) == (422, "bad_json")
        async with http.post(url(server, "/console/token"), json={"username": "alice", "user_id": 1}) as answer:
            assert answer.status == 403


async def test_token_of_a_made_up_user_matches_the_settings():
    """The token has the audience and the issuer that the server requires."""
    async with serving(dev=True, jwt_audience="us", jwt_issuer="them") as server, aiohttp.ClientSession() as http:
        user = {"username": "alice", "user_id": 7, "rooms": ["channel:*"]}
        async with http.post(url(server, "/console/token"), json=user, headers=OURS) as answer:
            identity = server.gateway.authenticator.verify((await answer.json())["token"])
    assert (identity.user_id, identity.username, identity.rooms) == (7, "alice", ("channel:*",))


@pytest.mark.parametrize("settings", [{"dev": True}, {"console": True, "api_key": KEY}, {"console": True}])
async def test_each_page_has_a_content_security_policy_with_its_own_nonce(settings):
    """Only scripts and styles with the nonce are allowed, and pages are neither framed nor cached."""
    nonces = set()
    async with serving(**settings) as server, aiohttp.ClientSession() as http:
        for _ in range(2):
            async with http.get(url(server)) as answer:
                page, headers = await answer.text(), answer.headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            nonce = policy["script-src"][len("'nonce-") : -1]
            nonces.add(nonce)
            assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == f"'nonce-{nonce}'"
            assert policy["form-action"] == "'self'"
            assert policy["connect-src"] == f"'self' ws://127.0.0.1:{server.port} wss://127.0.0.1:{server.port}"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cache-Control"] == "no-store"
            assert not re.search(r"\s(on[a-z]+|style)=", page)
            for tag in re.findall(r"<script[^>]*>", page):
                assert f'nonce="{nonce}"' in tag or 'type="application/json"' in tag
    assert len(nonces) == 2


@pytest.mark.parametrize(
    ("host", "status", "policy"), [("a;script-src *", 400, None), ("[::1]", 200, "connect-src 'self';")]
)
async def test_only_a_plain_host_is_copied_to_the_policy(host, status, policy):
    """A page with an invalid Host header is refused. An address that a policy cannot name is left out of it."""
    async with (
        serving(console=True, api_key=KEY) as server,
        aiohttp.ClientSession() as http,
        http.get(url(server), headers={"Host": host}) as answer,
    ):
        assert answer.status == status
        assert (policy or "") in answer.headers.get("Content-Security-Policy", "")
        assert host not in str(answer.headers)


async def test_page_data_cannot_end_its_script_element():
    """Descriptions from plugins stay inside the JSON, whatever they contain."""
    async with (
        serving(dev=True, plugins=[deploy]) as server,
        aiohttp.ClientSession() as http,
        http.get(url(server)) as answer,
    ):
        page = await answer.text()
    assert "<script>document.title" not in page
    data = json.loads(page.split('<script type="application/json" id="page">')[1].split("</script>")[0])
    assert "</script>" in next(room["description"] for room in data["rooms"] if room["type"] == "environment")
    assert {"send_message", "join_room", "ping", "deploy.start"} <= {command["type"] for command in data["commands"]}
    assert not any(event["publishable"] for event in data["events"] if event["type"].startswith("user_"))


async def test_unchanged_files_are_answered_with_304():
    """Scripts and style sheets have an ETag, and other files of the package are not served."""
    async with serving(dev=True) as server, aiohttp.ClientSession() as http:
        for name, type in (("console.js", "text/javascript"), ("console.css", "text/css")):
            async with http.get(url(server, f"/console/static/{name}")) as answer:
                assert (answer.status, answer.content_type) == (200, type)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                tag = answer.headers["ETag"]
            async with http.get(url(server, f"/console/static/{name}"), headers={"If-None-Match": tag}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
        for name in ("console.html", "__init__.py", "..%2Fconsole.html"):
            async with http.get(url(server, f"/console/static/{name}")) as answer:
                assert answer.status == 404


async def test_each_close_code_has_an_explanation():
    """The console explains each code that the server closes with."""
    assert set(MEANINGS) == set(CLOSES)
    assert all(meaning.endswith(".") for meaning in MEANINGS.values())


async def test_each_builtin_command_has_a_form():
    """The console offers the commands that no plugin declares."""
    assert set(CORE_COMMANDS) == set(COMMANDS)
