"""The HTTP side of a node: ``upgrade`` (the WebSocket handshake), ``api``, ``pages`` and ``ops`` (health, metrics).

``server`` listens and stops, ``routes`` adds all routes, the other modules are shared by the packages. Handlers find
the gateway in the application under ``app_keys.GATEWAY``. Only ``upgrade`` and ``aiohttp_internals`` touch sockets.
``workers``, ``cli`` and ``testing`` import this package; it imports ``gateway``, ``specs`` and what is below them.
"""
