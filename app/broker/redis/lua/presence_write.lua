-- Writes the current state of some of a node's users, and announces what changed. A repeat has no effect.
-- ARGV, after those of presence.lua: '1' to renew the node's lease, because it has members in the room, '0' to remove it,
--   '' to leave it as it is; for each user: the user, the name, the number of connections on this node, '1' if this node
--   has written the user before, and a flag: for a user with connections '1' if the name is new; otherwise '0' if the user
--   left on request, '1' if the connection was lost, '2' if the user left long ago and was restored from an older state of
--   the server; and the status of the user on this node, or '' if it knows none: '+' and the text if it was set now; '-',
--   how many ms ago it was set, a space and the text if it was sent before, perhaps without effect; '=', its stamp, a
--   space and the text if the server had it; with '!' instead of '=', the members may not have been told.
-- Returns the state of the node's lease before; for each user 1 if it is the user's first connection in the room, or was
--   the last one; when the next announcement is due; the number of users; and the statuses that the node may not know:
--   of each the number of the user in this call, the stamp, the text, and 1 if it waits to be announced, otherwise 0.

local own_state = own_lease_state()
if ARGV[9] == '1' then
  redis.call('ZADD', nodes, now + lease, node)
end
remove_dead_nodes(own_state)
local changed, statuses = {}, {}
local micros = time[1] * 1000000 + time[2]

-- Returns the next number of arrival, which increases even if the clock was set back.
local last_number
local is_order_new = false
local function next_number()
  if not last_number then
    local top = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')
    last_number = tonumber(top[2] or 0)
    is_order_new = not top[2]
  end
  last_number = math.max(micros + #changed, last_number + 1)
  return last_number
end

-- Announces a user who was not in the room, if necessary. Returns the new value of joined, and true if the join is held.
local function arrive(user, name)
  local opened = redis.call('HGET', open, user)
  local state = opened and cjson.decode(opened)
  if state and not state.is_in and now < state.joined + grace then
    record_change('+', user, name)
    return nil, true
  end
  if state then
    close_user(user)
  end
  if state and state.is_in then
    return state.joined
  end
  record_change('+', user, name)
  return announce_join(user, name, redis.call('HLEN', users) + 1)
end

-- Changes the status in one, unless a later one is known. The order is that of the calls, except for repeats.
local function set_status(one, argument)
  local kind, stamp, status = string.sub(argument, 1, 1), nil, nil
  local known = tonumber(one.t or 0)
  if kind == '+' then
    stamp, status = math.max(micros, known + 1), string.sub(argument, 2)
  else
    local first, rest = string.match(argument, '^.(%d+) (.*)$')
    stamp, status = kind == '-' and micros - first * 1000 or tonumber(first), rest
    if stamp <= known then
      return
    end
  end
  if kind == '!' or (kind ~= '=' and status ~= (one.s or '')) then
    one.w = true
  end
  one.t, one.s = text(stamp), status ~= '' and status or nil
end

local function enter(user, name, connections, known, renamed, status)
  local stored = redis.call('HGET', users, user)
  local was_gone = redis.call('ZREM', gone, user) == 1
  local one, held, has_arrived
  if stored then
    one = cjson.decode(stored)
  else
    local number = next_number()
    one = {name = name, at = text(number), nodes = {}}
    if known and not was_gone and not is_held(user) then
      one.joined = now  -- the server lost its data; the user was announced before
    else
      one.joined, held = arrive(user, name)
      has_arrived = true
    end
    redis.call('ZADD', order, text(held and -number or number), user)
  end
  local was_away = next(one.nodes) == nil
  if stored and was_away then
    close_user(user)
  end
  one.nodes[node] = nil
  local is_on_other_nodes = next(one.nodes) ~= nil
  if renamed then
    one.name = name
  end
  one.nodes[node] = connections
  if status ~= '' then
    set_status(one, status)
    if has_arrived and one.s then
      one.w = true  -- this node was removed as dead, and the members were told that the user left
    end
  end
  if one.w then
    if not stored then
      redis.call('HSET', users, user, cjson.encode(one))  -- so that the user is counted
    end
    announce_status(user, one)
  end
  redis.call('HSET', users, user, cjson.encode(one))
  if one.t and string.sub(status, 1, #one.t + 2) ~= '=' .. one.t .. ' ' then
    statuses[#statuses + 1] = {#changed, one.t, one.s or '', one.w and 1 or 0}
  end
  return not is_on_other_nodes and (not known or (was_away and was_gone))
end

local function leave(user, name, known, how)
  local is_lost = how == '1'
  local stored = redis.call('HGET', users, user)
  if not stored then
    -- This is a repeat, or this node was removed as dead, or the server lost its data.
    if known and not is_held(user) and not redis.call('ZSCORE', gone, user) then
      local number = next_number()
      redis.call('ZADD', order, text(number), user)
      depart(user, {name = name, at = text(number), nodes = {}, joined = 0}, is_lost, MINUTE)
      return true
    end
    return false
  end
  local one = cjson.decode(stored)
  local was_away = next(one.nodes) == nil
  if how == '2' and not one.nodes[node] then
    return false  -- the user is not restored, but has left meanwhile, and may be away
  end
  one.nodes[node] = nil
  if next(one.nodes) ~= nil then
    redis.call('HSET', users, user, cjson.encode(one))
    return false
  end
  if how == '2' then
    record_change('-', user, one.name)  -- the record of the departure may be lost
    remove_user(user, one.u)
    close_user(user)
  elseif not was_away then
    depart(user, one, is_lost, MINUTE)
  elseif not is_lost then
    close_user(user)
    depart(user, one, false, MINUTE)
    return false
  end
  return known and not was_away
end

for i = 10, #ARGV, 6 do
  local connections, known = tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local has_changed
  if connections > 0 then
    has_changed = enter(ARGV[i], ARGV[i + 1], connections, known, ARGV[i + 4] == '1', ARGV[i + 5])
  else
    has_changed = leave(ARGV[i], ARGV[i + 1], known, ARGV[i + 4])
  end
  changed[#changed + 1] = has_changed and 1 or 0
end
if ARGV[9] == '0' then
  redis.call('ZREM', nodes, node)
end
set_expiry(is_order_new)
claim_expired()
return with_claimed({own_state, changed, announce_due(), redis.call('HLEN', users), statuses})
