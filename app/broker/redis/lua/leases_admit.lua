-- Takes a lease unless the limit is reached. ARGV, after those of leases.lua: limit, the connection's member.
-- Returns 1 if the connection has a lease now, otherwise 0.

local before = count()
if not redis.call('ZSCORE', leases, ARGV[5]) and before >= tonumber(ARGV[4]) then
  return 0
end
redis.call('ZADD', leases, now + lease, ARGV[5])
if before == 0 then
  go_online(since and seen and now - seen <= grace and since or now)
elseif not since then
  go_online(now)
end
set_expiry()
return 1
