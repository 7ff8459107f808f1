-- Takes a lease unless the limit is reached. ARGV: length of the lease in ms, limit, the connection's member.
-- Returns 1 if the connection has a lease now, otherwise 0.

if not redis.call('ZSCORE', KEYS[1], ARGV[3]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[3])
set_expiry()
return 1
