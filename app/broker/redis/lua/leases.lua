-- Shared by the scripts that change a user's leases. Appended to server_time.lua.
-- KEYS: the leases (a zset: node and connection -> end of the lease in ms). It also has the times of the user, with
--   negative scores: since -> when the user came online, seen -> when a user without leases had one for the last time.
-- ARGV: length of the lease in ms; how long the times are stored, in ms, or 0; the grace in ms.

local leases, lease, keep, grace = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local since, seen, first_end
local first = redis.call('ZRANGE', leases, 0, 2, 'WITHSCORES')
for i = 1, #first, 2 do
  local score = tonumber(first[i + 1])
  if first[i] == 'since' then
    since = -score
  elseif first[i] == 'seen' then
    seen = -score
  else
    first_end = first_end or score
  end
end

local function count()
  return redis.call('ZCARD', leases) - (since and 1 or 0) - (seen and 1 or 0)
end

-- The user has had no leases since a time.
local function go_offline(at)
  if keep == 0 then
    redis.call('DEL', leases)
    since, seen = nil, nil
  elseif since and not seen then
    seen = at
    redis.call('ZADD', leases, -at, 'seen')
    redis.call('PEXPIREAT', leases, at + keep)
  end
end

-- The user has leases again, and is online since a time.
local function go_online(at)
  if keep > 0 then
    redis.call('ZADD', leases, -at, 'since')
  end
  if seen then
    redis.call('ZREM', leases, 'seen')
  end
end

-- Lets the key expire together with the last lease, or later by the time for which the times are stored.
local function set_expiry()
  local last = redis.call('ZRANGE', leases, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', leases, last[2] + keep)
end

local expired = first_end and first_end <= now and redis.call('ZRANGEBYSCORE', leases, 0, now, 'WITHSCORES')
redis.call('ZREMRANGEBYSCORE', leases, 0, now)
if expired and count() == 0 then
  go_offline(expired[#expired] - lease)
end
