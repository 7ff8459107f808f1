-- Returns how many leases there are.

return redis.call('ZCARD', KEYS[1])
