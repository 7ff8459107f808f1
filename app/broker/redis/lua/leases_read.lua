-- Reads a user's leases and times. Changes nothing. Appended to server_time.lua.
-- Returns the time in ms, and the members of the zset with their scores, alternating (see leases.lua).

return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
