-- Renews leases and releases others. A lease that has expired is taken again.
-- ARGV, after those of leases.lua: number of members to renew, these members, the members to release.

local renewed = tonumber(ARGV[4])
for i = 5, #ARGV do
  if i < 5 + renewed then
    redis.call('ZADD', leases, now + lease, ARGV[i])
  else
    redis.call('ZREM', leases, ARGV[i])
  end
end
if count() == 0 then
  go_offline(now)
  return
end
if not since or seen then
  go_online(since or now)  -- the server has lost its data, or the node was suspended and its leases had expired
end
set_expiry()
