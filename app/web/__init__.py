"""The HTTP side of a node: ``upgrade`` (the WebSocket handshake), ``api``, ``pages`` and ``ops`` (health, metrics).

``server`` starts and stops, ``port`` listens, ``routes`` adds all routes, and the packages share the other modules.
Handlers find the gateway in the application under ``app_state.GATEWAY``. ``workers``, ``cli`` and ``testing`` import
this package. It imports ``gateway``, ``specs`` and the packages below them.
"""
