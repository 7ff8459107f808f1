-- Returns up to 100 rooms whose registration has ended, for the calling node to sweep them, and when the extended
-- registrations end. Appended to server_time.lua.
-- KEYS: the rooms (see followed_register.lua). ARGV: by how much the registrations are extended, in ms.

local rooms = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
local stop = string.format('%.0f', now + tonumber(ARGV[1]))
for _, room in ipairs(rooms) do
  redis.call('ZADD', KEYS[1], stop, room)
end
return {stop, rooms}
