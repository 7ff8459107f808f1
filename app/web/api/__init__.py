"""The HTTP API for backends, tickets for browsers, and the routes of plugins.

``events``, ``rooms`` and ``users`` handle the requests, which ``auth`` admits and ``params`` reads. ``batch`` validates
events and ``idempotency`` handles repeats. ``web.routes`` adds the routes. ``upgrade`` and ``routes`` import this
package; it imports ``app_keys``, ``console_session``, ``json_errors`` and ``request_head``.
"""
