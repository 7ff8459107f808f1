"""``roomcast serve``: run a server for production, in one process or in several."""

from __future__ import annotations

import os
import ssl
from functools import partial
from pathlib import Path

import click

from .. import logs, output
from ..certificate_files import CertificateFile, load_certificate
from ..certificates import ServerContext
from ..errors import SettingsError
from ..setting_rules import split_address
from ..settings import Settings
from ..web.port import Address
from ..web.tcp_sockets import expand_hosts
from ..workers import process, supervisor
from ..workers.worker import current_worker
from .options import host_option, port_option, tls_options


@click.command()
@host_option()
@port_option()
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of processes that serve the port. More than one needs REDIS_URL.",
)
@tls_options("Serve TLS with this certificate chain (PEM).")
@click.option("--unix-socket", type=click.Path(path_type=Path), help="Listen on this Unix socket instead of a port.")
def serve(
    hosts: tuple[str, ...],
    port: int,
    workers: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    unix_socket: Path | None,
) -> None:
    """Run a server for production.

    Settings are read from environment variables; `roomcast doctor` checks them. JWT_SECRET or JWT_PUBLIC_KEY is
    required, to verify the tokens of your users. API_KEY is required for your backends to publish. INTERNAL_ADDRESS
    separates the port for your users from that for backends and operators.

    SIGTERM or Ctrl-C closes the connections and stops the server. A second signal stops it at once. SIGHUP reads
    certificates and the files of secrets again.

    \b
    JWT_SECRET=… API_KEY=… roomcast serve --host 0.0.0.0 --port 8000
    """
    worker = current_worker(os.environ)
    settings = Settings.from_env()
    supervisor.check(workers, settings)
    if tls_key is not None and tls_cert is None:
        raise SettingsError("--tls-key is given without --tls-cert; give the certificate of this key as well.")
    if tls_cert is not None and unix_socket is not None:
        raise SettingsError("--unix-socket does not work with TLS; let the proxy in front of it serve TLS.")
    load_tls = None if tls_cert is None else partial(create_tls_context, tls_cert, tls_key)
    tls = load_tls() if load_tls is not None else None
    address = Address(hosts, port, unix_socket, tls)
    value = settings.internal_address
    internal = None if value is None else internal_address(split_address(value), address)
    output.install()
    logs.configure(settings, worker.number if worker else None)
    if worker is not None:
        worker.serve(settings, address, internal, load_tls)
    elif workers > 1:
        supervisor.supervise(settings, address, internal, workers)
    else:
        process.run(settings, address, lambda server: None, internal=internal, load_tls=load_tls)


def create_tls_context(certificate: Path, key: Path | None) -> ServerContext:
    """Return the context that serves ``certificate``, a chain in PEM that is valid now. Raises ``SettingsError``."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    key_file = None if key is None else CertificateFile("--tls-key", str(key))
    context.validity = load_certificate(context, CertificateFile("--tls-cert", str(certificate)), key_file)
    return context


def internal_address(host_and_port: tuple[str, int], address: Address) -> Address:
    """Return the address in INTERNAL_ADDRESS, which has this host and port.

    Raises ``SettingsError`` if it has the same port as ``address``. The hosts are not compared, because names would
    have to be resolved, and two sockets that workers share would get no error from the system.
    """
    host, port = host_and_port
    if address.unix_socket is None and port == address.port != 0:
        raise SettingsError(f"INTERNAL_ADDRESS has the port {port}, which is that of --port; give it another one.")
    return Address(expand_hosts([host]), port, is_internal=True)
