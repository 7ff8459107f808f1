-- Revokes a user's tokens that were issued before a time. If a later time is stored already, it stays.
-- KEYS: the stored time. ARGV: the time, how long to store it in ms. Returns the time that counts.

local known = redis.call('GET', KEYS[1])
local before = ARGV[1]
if known and tonumber(known) > tonumber(before) then
  before = known
end
redis.call('SET', KEYS[1], before, 'PX', ARGV[2])
return before
