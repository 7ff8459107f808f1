-- Notes rooms as having members. KEYS: the rooms (a zset: room -> when that is forgotten, in ms).
-- ARGV: for how long, in ms, and the rooms.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
