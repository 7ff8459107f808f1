"""The outbox relay: publishes what an application has written to PostgreSQL or to a Redis stream.

``postgres`` and ``redis_stream`` read the two sources, ``publisher`` sends events to the HTTP API, ``schema`` is the
SQL of the table. The relay is a client of the HTTP API and imports nothing of the server, so it runs on any machine.
"""
