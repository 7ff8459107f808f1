-- Registers rooms that have members. KEYS: the rooms (a zset: room -> end of the registration in ms).
-- ARGV: how long the registration lasts, in ms; the rooms.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
