-- Renews leases and releases others. A lease that has expired is taken again.
-- ARGV: length of the lease in ms, number of members to renew, these members, the members to release.

local renewed = tonumber(ARGV[2])
for i = 3, #ARGV do
  if i < 3 + renewed then
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
  else
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
set_expiry()
