-- Shared by the scripts for a user's leases. Appended to server_time.lua.
-- KEYS: the leases (a zset: node and connection -> end of the lease in ms).

-- Lets the key expire together with the last lease.
local function set_expiry()
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIREAT', KEYS[1], last[2])
  end
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
