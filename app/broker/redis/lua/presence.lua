-- Shared by the scripts for a room's presence. Appended to server_time.lua.
-- KEYS: nodes, the nodes with members in the room (a zset: node -> end of its lease in ms);
--   users (a hash: user -> JSON {name, at, nodes: {node: connections}}, at is the time of arrival in microseconds);
--   gone, users who were announced as gone without a request of their node (a zset: user -> time in ms).
-- ARGV: the calling node; the length of its lease in ms; '1' if nodes with an expired lease may be removed.

local nodes, users, gone = KEYS[1], KEYS[2], KEYS[3]
local node, lease = ARGV[1], tonumber(ARGV[2])
local HOUR = 3600000

-- Returns the state of the calling node's lease: 0 none, 1 valid, 2 expired.
local function own_lease_state()
  local lease_end = redis.call('ZSCORE', nodes, node)
  if not lease_end then
    return 0
  end
  return tonumber(lease_end) > now and 1 or 2
end

-- The keys outlive a lease, so that a node that returns after a pause finds expired leases. No keys mean lost data.
local function set_expiry()
  redis.call('PEXPIRE', nodes, 4 * lease)
  redis.call('PEXPIRE', users, 4 * lease)
end

local function record_gone(user)
  redis.call('ZREMRANGEBYSCORE', gone, '-inf', now - HOUR)
  redis.call('ZADD', gone, now, user)
  redis.call('PEXPIRE', gone, HOUR)
end

-- Removes dead nodes from the room. Returns the users who were on no other node and their names, alternating.
-- A node whose own lease has expired must not remove others: perhaps the server was suspended, and all nodes are alive.
local function remove_dead_nodes(own_state)
  local removed = {}
  if ARGV[3] ~= '1' or own_state == 2 then
    return removed
  end
  local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now)
  if #dead == 0 then
    return removed
  end
  local all = redis.call('HGETALL', users)
  for i = 1, #all, 2 do
    local one = cjson.decode(all[i + 1])
    local was_on_dead_node = false
    for _, name in ipairs(dead) do
      was_on_dead_node = was_on_dead_node or one.nodes[name] ~= nil
      one.nodes[name] = nil
    end
    if was_on_dead_node and next(one.nodes) == nil then
      redis.call('HDEL', users, all[i])
      record_gone(all[i])
      removed[#removed + 1] = all[i]
      removed[#removed + 1] = one.name
    elseif was_on_dead_node then
      redis.call('HSET', users, all[i], cjson.encode(one))
    end
  end
  for _, name in ipairs(dead) do
    redis.call('ZREM', nodes, name)
  end
  return removed
end
