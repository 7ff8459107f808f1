-- Shared by the scripts for a room's presence. Appended to server_time.lua.
-- KEYS: nodes, the nodes with members in the room (a zset: node -> end of its lease in ms);
--   users (a hash: user -> JSON {name, at, nodes: {node: connections}, joined}): at is the time of arrival in microseconds,
--     joined is when the join was announced, in ms; it is absent if it was not;
--   gone, users who left (a zset: user -> until when this is stored, in ms): if a node writes that such a user left, this
--     is a repeat, or the node was removed as dead; for other absent users it means that the server lost its data;
--   open, users whose presence is announced later if it differs then, or may not be announced yet (a hash: user -> JSON
--     {name, joined, is_in}): is_in is true if the last announcement of the user was a join;
--   due, when that is (a zset: user -> time in ms);
--   journal, the last announcements (a stream); channel, the room's channel.
-- ARGV: generation, how often this call was sent before; the calling node; the length of its lease in ms; '1' if nodes
--   with an expired lease may be removed; the grace in ms; the number of users above which joins are not announced;
--   PUBLISH or SPUBLISH.
-- memory_presence.py explains the rules of announcements.
-- A server without memory refuses commands that need some, from the first one of a script on. So each change begins with
-- such a command: nothing is changed then, and the node tries it again.

local nodes, users, gone, open, due, journal, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local node, lease, grace, max_users, publish = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local SECOND, MINUTE, HOUR = 1000, 60000, 3600000
local JOURNAL_SIZE = 1000

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

local function record_gone(user, time_to_live)
  redis.call('ZREMRANGEBYSCORE', gone, '-inf', now)
  redis.call('ZADD', gone, now + time_to_live, user)
  if redis.call('PTTL', gone) < time_to_live then
    redis.call('PEXPIRE', gone, time_to_live)
  end
end

-- Returns for how long the journal is kept. A journal takes 4 KB, so that of a room without members is dropped soon:
-- otherwise one user who joins and leaves new rooms would fill the server. If nodes were removed as dead, it is kept for
-- their return.
local function journal_time_to_live()
  if redis.call('HLEN', users) > 0 then
    return 10 * MINUTE
  end
  local after_dead = redis.call('ZRANGEBYSCORE', gone, string.format('(%.0f', now + MINUTE), '+inf', 'LIMIT', 0, 1)
  return #after_dead > 0 and 10 * MINUTE or 5 * SECOND
end

-- Announces a join (+) or a leave (-), with an id and a signature (see room.lua).
local function announce(sign, user, name)
  local text = ' [' .. user .. ',' .. cjson.encode(name) .. ']'
  local id = redis.call('XADD', journal, 'MAXLEN', '~', JOURNAL_SIZE, '*', 'm', sign .. text)
  redis.call('PEXPIRE', journal, sign == '+' and 10 * MINUTE or journal_time_to_live())
  local head = sign .. id .. text
  redis.call(publish, channel, head .. '\n' .. string.sub(redis.sha1hex(ARGV[1] .. channel .. head), 1, 16))
end

-- Returns the time of the announcement, or nil if the room has too many users. count includes the user.
local function announce_join(user, name, count)
  if count > max_users then
    return nil
  end
  announce('+', user, name)
  return now
end

local function open_user(user, one, at)
  redis.call('HSET', open, user, cjson.encode(one))
  redis.call('ZADD', due, at, user)
  redis.call('PEXPIRE', open, 4 * lease + 2 * grace)
  redis.call('PEXPIRE', due, 4 * lease + 2 * grace)
end

local function close_user(user)
  redis.call('HDEL', open, user)
  redis.call('ZREM', due, user)
end

-- Announces a user who was not in the room, if necessary. Returns the new value of joined.
local function arrive(user, name)
  local text = redis.call('HGET', open, user)
  local one = text and cjson.decode(text)
  if one and not one.is_in and now < one.joined + grace then
    return nil
  end
  if one then
    close_user(user)
  end
  if one and one.is_in then
    return one.joined
  end
  return announce_join(user, name, redis.call('HLEN', users) + 1)
end

-- Removes a user from the room, and announces that now or later. gone_for is how long the user counts as gone, in ms.
local function depart(user, name, joined, is_lost, gone_for)
  record_gone(user, gone_for)
  redis.call('HDEL', users, user)
  if not joined then
    if redis.call('HGET', open, user) or redis.call('HLEN', users) >= max_users then
      return  -- the join is held, or was not announced
    end
    joined = 0  -- the room was larger at the join; members may know the user from the list of members
  end
  if is_lost and grace > 0 then
    open_user(user, {name = name, joined = joined, is_in = true}, now + grace)
    return
  end
  announce('-', user, name)
  if joined + grace > now then
    open_user(user, {name = name, joined = joined, is_in = false}, joined + grace)
  end
end

-- Announces up to 100 users that are due. Returns in how many ms the next one is due, or -1.
local function announce_due()
  for _, user in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 100)) do
    local text, present = redis.call('HGET', open, user), redis.call('HGET', users, user)
    if present then
      local one = cjson.decode(present)
      if not one.joined then
        one.joined = announce_join(user, one.name, redis.call('HLEN', users))
        redis.call('HSET', users, user, cjson.encode(one))
      end
    elseif text then
      local one = cjson.decode(text)
      if one.is_in then
        announce('-', user, one.name)
      end
    end
    close_user(user)
  end
  local first = redis.call('ZRANGEBYSCORE', due, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and math.max(tonumber(first[2]) - now, 0) or -1
end

-- Removes dead nodes from the room.
-- A node whose own lease has expired must not remove others: perhaps the server was suspended, and all nodes are alive.
local function remove_dead_nodes(own_state)
  if ARGV[5] ~= '1' or own_state == 2 then
    return
  end
  local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now)
  if #dead == 0 then
    return
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
      depart(all[i], one.name, one.joined, true, HOUR)
    elseif was_on_dead_node then
      record_gone(all[i], HOUR)
      redis.call('HSET', users, all[i], cjson.encode(one))
    end
  end
  for _, name in ipairs(dead) do
    redis.call('ZREM', nodes, name)
  end
end
