-- Removes the first change of a user, which a node has processed, and claims the next one for this node. A repeat has no
-- effect. Appended to server_time.lua.
-- KEYS: changes and claims (see presence.lua). ARGV: the length of a claim in ms, the user, and the id of the change.
-- Returns the sign, the id and the name of the next change, or an empty list.

local stored = redis.call('HGET', KEYS[1], ARGV[2])
local waiting = stored and cjson.decode(stored) or {}
if not waiting[1] or waiting[1][2] ~= ARGV[3] then
  return {}
end
table.remove(waiting, 1)
if #waiting == 0 then
  redis.call('HDEL', KEYS[1], ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[2])
  return {}
end
redis.call('HSET', KEYS[1], ARGV[2], cjson.encode(waiting))
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[1]), ARGV[2])
return waiting[1]
