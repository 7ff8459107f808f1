"""``roomcast doctor``: check a deployment. The checks are in ``checks/``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from .checks import environment
from .checks.finding import FAIL, OK, WARN, Finding
from .checks.redis import check_redis
from .checks.server import check_running
from .exit_status import REFUSED
from .options import host_option, json_option, port_option, run, tls_options
from .printing import print_json
from .target import Target, parse_target

_COLORS: Final = {OK: "green", WARN: "yellow", FAIL: "red"}


@click.command()
@host_option()
@port_option()
@tls_options("Also check this certificate chain (PEM), with which the server is to serve TLS.")
@click.option("--url", help="Also check the server at this URL. Without it, check that the port is free.")
@json_option()
def doctor(
    hosts: tuple[str, ...], port: int, tls_cert: Path | None, tls_key: Path | None, url: str | None, as_json: bool
) -> None:
    """Check a deployment for problems.

    Checks settings, secrets, plugins, limits, the clock and Redis; with --url also a running server. Run it with the
    environment variables and the TLS options of the server.

    The exit status is 1 if a check fails.

    \b
    roomcast doctor --url ws://127.0.0.1:8000
    """

    async def print_findings() -> list[Finding]:
        findings = []
        target = parse_target(url) if url else None
        async for finding in examine(os.environ, hosts, port, target, tls_cert, tls_key):
            findings.append(finding)
            if not as_json:
                click.echo(f"{click.style(f'{finding.level:<4}', fg=_COLORS[finding.level])}  {finding.sentence}")
        return findings

    findings = run(print_findings())
    has_failed = any(finding.level == FAIL for finding in findings)
    if as_json:
        print_json({"ok": not has_failed, "findings": [finding._asdict() for finding in findings]})
    if has_failed:
        raise click.exceptions.Exit(REFUSED)


async def examine(
    environ: Mapping[str, str],
    hosts: Sequence[str],
    port: int,
    target: Target | None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> AsyncIterator[Finding]:
    """Yield the findings of all checks: of the environment, the machine and Redis, then of the port or the server."""
    for finding in (
        *environment.check_settings(environ),
        *environment.check_names(environ),
        *environment.check_plugins(environ),
        *environment.check_machine(environ),
        *environment.check_certificate(tls_cert, tls_key),
    ):
        yield finding
    async for finding in check_redis(environ):
        yield finding
    if target is None:
        for finding in environment.check_ports(environ, hosts, port):
            yield finding
        return
    async for finding in check_running(target, environ):
        yield finding
