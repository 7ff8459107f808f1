-- What the scripts for a user's leases share. KEYS: the leases (a zset: member -> end of its lease in ms).

local function expire()
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIREAT', KEYS[1], last[2])
  end
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
