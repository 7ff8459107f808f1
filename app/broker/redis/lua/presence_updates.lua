-- Returns the users whose status was announced after an announcement: its id, the user and the user's JSON, alternating.
-- KEYS: users, updates (see presence.lua). ARGV: the id of the last announcement that the node has received.

local found = {}
local announced = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES')
for i = 1, #announced, 2 do
  local value = redis.call('HGET', KEYS[1], announced[i])
  if value then
    found[#found + 1], found[#found + 2], found[#found + 3] = announced[i + 1], announced[i], value
  end
end
return found
