-- Renews leases, and gives back others; what is not there is taken. ARGV: the lease's ms, how many to renew, those, and
-- those to give back.

local keep = tonumber(ARGV[2])
for i = 3, #ARGV do
  if i < 3 + keep then
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
  else
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
expire()
