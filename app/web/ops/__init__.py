"""Endpoints for the tools of operators: health checks, and metrics for Prometheus. No key is needed.

The responses contain no user, no room and no key. ``web.routes`` adds the routes; ``workers`` collects and merges the
metrics of several worker processes with ``metrics`` and ``worker_metrics``. The package imports ``api.auth``,
``app_state``, ``failure_logs`` and ``json_errors``.
"""
