"""The command line.

``main.py`` contains the command ``roomcast``. Each subcommand is in the module of its name; ``token`` is in
``tokens.py``. ``checks/`` belongs to ``doctor``, ``bench_run.py`` and ``bench_results.py`` to ``bench``.
``options.py``, ``target.py``, ``tokens.py`` and ``websocket_client.py`` are shared. Only ``__main__`` imports this
package.
"""

from .main import main

__all__ = ["main"]
