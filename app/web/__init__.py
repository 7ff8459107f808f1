"""The HTTP side: routes, the WebSocket handshake, the API for backends, health, metrics, the console."""
