-- Writes how a node's users stand, as they are, so that a repeat does no harm.
-- ARGV, after those of presence.lua: '1' if the node still has members in the room; for each user: the user, the name,
--   the connections on this node, '1' if the others know of the user through this node, '1' if the name is a new one.
-- Returns the node's standing before; for each user 1 if the others are to be told, that they came if they have
--   connections, else that they went; users of dead nodes and their names; and how many users there are now.

local own = standing()
local left = reap(own)
local news = {}

local function enter(user, name, connections, known, renamed, at)
  local text = redis.call('HGET', users, user)
  local one = text and cjson.decode(text) or {name = name, at = string.format('%.0f', at), nodes = {}}
  one.nodes[node] = nil
  local elsewhere = next(one.nodes) ~= nil
  if renamed then
    one.name = name
  end
  one.nodes[node] = connections
  redis.call('HSET', users, user, cjson.encode(one))
  local was_gone = redis.call('ZREM', gone, user) == 1
  return not elsewhere and (not known or (not text and was_gone))
end

local function leave(user, known)
  local text = redis.call('HGET', users, user)
  if not text then
    -- Lost with the server's data, or taken out when this node seemed dead; then that was announced.
    if known and not redis.call('ZSCORE', gone, user) then
      remember_gone(user)
      return true
    end
    return false
  end
  local one = cjson.decode(text)
  one.nodes[node] = nil
  if next(one.nodes) ~= nil then
    redis.call('HSET', users, user, cjson.encode(one))
    return false
  end
  redis.call('HDEL', users, user)
  return known
end

local micros = time[1] * 1000000 + time[2]
for i = 5, #ARGV, 5 do
  local connections, known = tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local tell
  if connections > 0 then
    tell = enter(ARGV[i], ARGV[i + 1], connections, known, ARGV[i + 4] == '1', micros + #news)
  else
    tell = leave(ARGV[i], known)
  end
  news[#news + 1] = tell and 1 or 0
end
if ARGV[4] == '1' then
  redis.call('ZADD', nodes, now + lease, node)
else
  redis.call('ZREM', nodes, node)
end
expire()
return {own, news, left, redis.call('HLEN', users)}
