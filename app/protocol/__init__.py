"""The wire format: RFC 6455 frames and the JSON envelope. No I/O and no asyncio.

``frames`` reads and builds WebSocket frames, ``messages`` parses requests and builds replies, events and errors.
``user_id`` defines user ids and the names of personal rooms. This package imports ``errors`` and ``fastpath``.
"""
