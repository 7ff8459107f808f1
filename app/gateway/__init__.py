"""One node: sessions, commands, rooms, publishing and delivery. Independent of HTTP and of Redis.

``gateway.py`` creates the parts, and starts and stops them. A message takes the path ``client`` -> ``commands`` -> a
plugin's handler -> ``publishing`` -> the broker -> ``listener`` -> ``delivery``. The parts do not import
``gateway.py``. Each receives the other parts that it uses in its constructor. ``web``, ``workers`` and ``testing``
import this package.
"""
