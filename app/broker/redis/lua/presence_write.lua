-- Writes the current state of some of a node's users, and announces what changed. A repeat has no effect.
-- ARGV, after those of presence.lua: '1' if the node still has members in the room; for each user: the user, the name,
--   the number of connections on this node, '1' if this node has written the user before, and a flag: for a user with
--   connections '1' if the name is new; otherwise '0' if the user left on request, '1' if the connection was lost, '2'
--   if the user left long ago and was restored from an older state of the server.
-- Returns the state of the node's lease before; for each user 1 if it is the user's first connection in the room, or was
--   the last one; when the next announcement is due; the number of users.

local own_state = own_lease_state()
if ARGV[9] == '1' then
  redis.call('ZADD', nodes, now + lease, node)
end
remove_dead_nodes(own_state)
local changed = {}

local function enter(user, name, connections, known, renamed, at)
  local text = redis.call('HGET', users, user)
  local was_gone = redis.call('ZREM', gone, user) == 1
  local one
  if text then
    one = cjson.decode(text)
  else
    one = {name = name, at = string.format('%.0f', at), nodes = {}}
    if known and not was_gone and not redis.call('HGET', open, user) then
      one.joined = now  -- the server lost its data; the user was announced before
    else
      one.joined = arrive(user, name)
    end
  end
  one.nodes[node] = nil
  local is_on_other_nodes = next(one.nodes) ~= nil
  if renamed then
    one.name = name
  end
  one.nodes[node] = connections
  redis.call('HSET', users, user, cjson.encode(one))
  return not is_on_other_nodes and (not known or (not text and was_gone))
end

local function leave(user, name, known, how)
  local is_lost = how == '1'
  local text = redis.call('HGET', users, user)
  if not text then
    -- This is a repeat, or this node was removed as dead, or the server lost its data.
    local pending = redis.call('HGET', open, user)
    if pending then
      if not is_lost and cjson.decode(pending).is_in then
        announce('-', user, name)
        close_user(user)
      end
    elseif known and not redis.call('ZSCORE', gone, user) then
      depart(user, name, 0, is_lost, MINUTE)
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
  if how == '2' then
    redis.call('HDEL', users, user)
    close_user(user)
  else
    depart(user, one.name, one.joined, is_lost, MINUTE)
  end
  return known
end

local micros = time[1] * 1000000 + time[2]
for i = 10, #ARGV, 5 do
  local connections, known = tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local has_changed
  if connections > 0 then
    has_changed = enter(ARGV[i], ARGV[i + 1], connections, known, ARGV[i + 4] == '1', micros + #changed)
  else
    has_changed = leave(ARGV[i], ARGV[i + 1], known, ARGV[i + 4])
  end
  changed[#changed + 1] = has_changed and 1 or 0
end
if ARGV[9] ~= '1' then
  redis.call('ZREM', nodes, node)
end
set_expiry()
return {own_state, changed, announce_due(), redis.call('HLEN', users)}
