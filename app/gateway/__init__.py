"""One node: sessions, commands, rooms, publishing and delivery. Knows neither HTTP nor Redis.

``Gateway`` creates the parts and starts and stops them. A message takes the path ``client`` -> ``commands`` -> a
plugin's handler -> ``publishing`` -> the broker -> ``listener`` -> ``delivery``. The parts do not import
``gateway.py``; each gets what it needs in its constructor. ``web``, ``workers`` and ``testing`` import this package.
"""
