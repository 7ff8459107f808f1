"""The checks of ``roomcast doctor``, by subject.

``environment.py`` checks settings, plugins and the machine, ``redis.py`` the Redis servers, ``server.py`` a running
server. Each yields a ``Finding`` (``finding.py``) per fact. Only ``cli.doctor`` imports this package.
"""
