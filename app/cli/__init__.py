"""The command line.

``main.py`` contains the command ``roomcast``. Each subcommand is in the module of its name; ``token`` is in
``tokens.py``, ``members`` and ``kick`` are in ``rooms.py``, and the commands for users in ``users.py``.
``checks/`` belongs to ``doctor``, ``bench_run.py`` and ``bench_results.py`` to ``bench``, ``publish_lines.py`` to
``publish``. ``plugin.py`` has the commands in ``plugin_new.py``, with ``plugin_files.py``, and in ``plugin_check.py``,
with ``plugin_problems.py`` and ``blocking_calls.py``. ``api.py``, ``exit_status.py``, ``options.py``, ``printing.py``,
``target.py``, ``tokens.py`` and ``websocket_client.py`` are shared. Only ``__main__`` imports this package.
"""

from .main import main

__all__ = ["main"]
