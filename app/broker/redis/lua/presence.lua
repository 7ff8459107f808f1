-- What the scripts for a room's presence share.
-- KEYS: nodes, the nodes with members in the room (a zset: node -> end of its lease in ms);
--   users (a hash: user -> {name, at, nodes: {node: connections}}, at is when they came, in microseconds);
--   gone, users whose going was announced without their node's knowing (a zset: user -> when, in ms).
-- ARGV: the node that asks; its lease in ms; '1' if nodes whose lease has ended may be taken for dead.

local nodes, users, gone = KEYS[1], KEYS[2], KEYS[3]
local node, lease = ARGV[1], tonumber(ARGV[2])
local HOUR = 3600000

-- The node's own lease: 0 it has none, 1 it has, 2 it has ended.
local function standing()
  local ends = redis.call('ZSCORE', nodes, node)
  if not ends then
    return 0
  end
  return tonumber(ends) > now and 1 or 2
end

-- The keys outlive a lease, so that whoever comes back after a break can tell dead nodes from lost data.
local function expire()
  redis.call('PEXPIRE', nodes, 4 * lease)
  redis.call('PEXPIRE', users, 4 * lease)
end

local function remember_gone(user)
  redis.call('ZREMRANGEBYSCORE', gone, '-inf', now - HOUR)
  redis.call('ZADD', gone, now, user)
  redis.call('PEXPIRE', gone, HOUR)
end

-- Takes dead nodes out of the room. Returns the users that were on no other, and their names, in turn. A node whose own
-- lease has ended cannot judge: perhaps it was the server that stood still, and the others are as alive as it is.
local function reap(own)
  local left = {}
  if ARGV[3] ~= '1' or own == 2 then
    return left
  end
  local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now)
  if #dead == 0 then
    return left
  end
  local all = redis.call('HGETALL', users)
  for i = 1, #all, 2 do
    local one = cjson.decode(all[i + 1])
    local touched = false
    for _, name in ipairs(dead) do
      touched = touched or one.nodes[name] ~= nil
      one.nodes[name] = nil
    end
    if touched and next(one.nodes) == nil then
      redis.call('HDEL', users, all[i])
      remember_gone(all[i])
      left[#left + 1] = all[i]
      left[#left + 1] = one.name
    elseif touched then
      redis.call('HSET', users, all[i], cjson.encode(one))
    end
  end
  for _, name in ipairs(dead) do
    redis.call('ZREM', nodes, name)
  end
  return left
end
