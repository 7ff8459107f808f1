-- Takes a lease, unless there are as many as there may be. ARGV: the lease's ms, how many there may be, the member.
-- Returns 1 if it is held now.

if not redis.call('ZSCORE', KEYS[1], ARGV[3]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[3])
expire()
return 1
