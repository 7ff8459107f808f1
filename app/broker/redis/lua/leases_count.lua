-- Returns the number of leases.

return redis.call('ZCARD', KEYS[1])
