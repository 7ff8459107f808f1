-- Returns the registered rooms. KEYS: the rooms (see rooms_register.lua).

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
