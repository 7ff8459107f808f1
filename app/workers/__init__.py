"""Server processes.

``process.py`` runs one server process. ``process_signals.py`` handles its signals, and ``reload.py`` reads certificates
and keys again. ``supervisor.py`` runs ``roomcast serve --workers N``: it binds the sockets
(``listening_sockets.py``), starts N processes (``worker.py`` is the worker's side, ``worker_process.py`` the
supervisor's view of it) and talks to them over ``ipc.py``. ``listen_errors.py`` and ``unix_socket.py`` serve both.
Only ``cli`` imports this package.
"""
