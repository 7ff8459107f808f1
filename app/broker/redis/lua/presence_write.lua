-- Writes the current state of some of a node's users. A repeat has no effect.
-- ARGV, after those of presence.lua: '1' if the node still has members in the room; for each user: the user, the name,
--   the number of connections on this node, '1' if this node has announced the user, '1' if the name is new.
-- Returns the state of the node's lease before; for each user 1 if the change must be announced (an arrival if the user
--   has connections, otherwise a departure); the removed users of dead nodes and their names; the number of users.

local own_state = own_lease_state()
local removed = remove_dead_nodes(own_state)
local announced = {}

local function enter(user, name, connections, known, renamed, at)
  local text = redis.call('HGET', users, user)
  local one = text and cjson.decode(text) or {name = name, at = string.format('%.0f', at), nodes = {}}
  one.nodes[node] = nil
  local is_on_other_nodes = next(one.nodes) ~= nil
  if renamed then
    one.name = name
  end
  one.nodes[node] = connections
  redis.call('HSET', users, user, cjson.encode(one))
  local was_gone = redis.call('ZREM', gone, user) == 1
  return not is_on_other_nodes and (not known or (not text and was_gone))
end

local function leave(user, known)
  local text = redis.call('HGET', users, user)
  if not text then
    -- Either the server lost its data, or this node was removed as dead. The latter was announced already.
    if known and not redis.call('ZSCORE', gone, user) then
      record_gone(user)
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
  local must_announce
  if connections > 0 then
    must_announce = enter(ARGV[i], ARGV[i + 1], connections, known, ARGV[i + 4] == '1', micros + #announced)
  else
    must_announce = leave(ARGV[i], known)
  end
  announced[#announced + 1] = must_announce and 1 or 0
end
if ARGV[4] == '1' then
  redis.call('ZADD', nodes, now + lease, node)
else
  redis.call('ZREM', nodes, node)
end
set_expiry()
return {own_state, announced, removed, redis.call('HLEN', users)}
