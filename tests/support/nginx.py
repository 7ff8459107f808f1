"""A real nginx with the configuration in docs/operations.md; only addresses, ports and paths are changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from docs_pages import snippet
from redis_servers import free_port
from shell import PATIENCE, Process

#: Debian installs nginx in a folder that is only on the PATH of root.
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MISSING = "there is no nginx: install one (`apt-get install nginx-light`), or name its executable in NGINX"
#: The temporary folders of nginx. By default they are in a folder that only root may write.
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def find_nginx() -> str:
    """Return the executable: NGINX, or one on the PATH. Without one, skip the test, or fail it if CI=true."""
    found = os.environ.get("NGINX") or shutil.which("nginx", path=SEARCH_PATH)
    if found:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(MISSING)


def configuration(nodes: Sequence[int], port: int, certificate: Path, folder: Path, location: str = "/") -> str:
    """Return the configuration in docs/operations.md with these ports of the nodes, and ``folder`` for the logs.

    With another ``location`` than ``/``, roomcast is served below it.
    """
    text = snippet("nginx")
    for number, node in enumerate(nodes, 1):
        text = _replaced(text, f"10.0.0.{number}:8000", f"127.0.0.1:{node}")
    text = _replaced(text, "listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    if location != "/":
        assert location == "/rt/", "the page shows the configuration for this path"
        variables, separator, beginning = snippet("nginx below a path").partition("        location /rt/ {\n")
        text = _replaced(text, "    map $http_upgrade", f"{variables}    map $http_upgrade")
        text = _replaced(text, "        location / {\n            proxy_pass http://roomcast;\n", separator + beginning)
    for path in ("/etc/nginx/cert.pem", "/etc/nginx/key.pem"):
        text = _replaced(text, path, str(certificate))
    for path in ("/var/log/nginx/roomcast.log", "/var/log/nginx/error.log"):
        text = _replaced(text, path, str(folder / Path(path).name))
    return _replaced(text, "http {\n", "http {\n" + "".join(f"    {one}_temp_path {folder};\n" for one in TEMPORARY))


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the configuration of nginx in docs/operations.md must contain {old!r} once"
    return text.replace(old, new)


class Nginx:
    """An nginx that listens when the constructor returns. ``log`` is its access log."""

    def __init__(self, nodes: Sequence[int], certificate: Path, folder: Path, location: str = "/") -> None:
        program = find_nginx()
        self.port = free_port()
        self.certificate = certificate
        self.log = folder / "roomcast.log"
        path = folder / "nginx.conf"
        path.write_text(configuration(nodes, self.port, certificate, folder, location))
        arguments = ("-p", str(folder), "-c", str(path), "-e", "stderr", "-g", f"daemon off; pid {folder}/pid;")
        checked = subprocess.run([program, *arguments, "-t"], capture_output=True, text=True, timeout=PATIENCE)
        assert checked.returncode == 0, checked.stderr
        self._process = Process(*arguments, command=(program,))
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._process.process.poll() is None, self._process.err
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), PATIENCE):
                return
            time.sleep(0.01)
        raise TimeoutError(f"nginx does not listen: {self._process.err}")

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stop()
