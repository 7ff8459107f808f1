-- Revokes a user's tokens from before a time, unless those from before a later one are. KEYS: the time that is kept.
-- ARGV: the time, its ms. Returns the time that holds.

local known = redis.call('GET', KEYS[1])
local before = ARGV[1]
if known and tonumber(known) > tonumber(before) then
  before = known
end
redis.call('SET', KEYS[1], before, 'PX', ARGV[2])
return before
