-- Shared by the scripts for a room's presence. Appended to server_time.lua.
-- KEYS: nodes, the nodes with members in the room (a zset: node -> end of its lease in ms);
--   users (a hash: user -> JSON, described below);
--   order (a zset: user -> number of arrival, which increases; negative while the join is held, because such a user is
--     not listed);
--   gone, users who left (a zset: user -> until when this is stored, in ms): if a node writes that such a user left, this
--     is a repeat, or the node was removed as dead; for other absent users it means that the server lost its data;
--   open, users whose presence is announced later if it differs then, or may not be announced yet (a hash: user -> JSON
--     {name, joined, is_in, until_ms}): is_in is true if the last announcement of the user was a join; then the user is
--     away: without connections, but counted until until_ms;
--   due, when users are announced (a zset: user -> time in ms);
--   journal, the last announcements of joins and leaves (a stream);
--   updates, users whose status was announced in the last minutes (a zset: user -> id of the announcement, which is its
--     time in microseconds, and increases);
--   channel, the room's channel.
-- The JSON of a user: name; at, the number of arrival, which is its time in microseconds; nodes {node: connections}, empty
--   while the user is away; joined, when the join was announced, in ms, absent if it was not; and if the user has set a
--   status: s, its text, absent if it is empty; t, its stamp: the time in microseconds, which increases; u, when a status
--   was announced last, in ms; w, true if this one waits to be announced.
-- ARGV: generation, how often this call was sent before; the calling node; the length of its lease in ms; '1' if nodes
--   with an expired lease may be removed, '2' if the calling node has no members and may be one of them; the grace in ms;
--   the number of users above which joins are not announced; PUBLISH or SPUBLISH.
-- In rooms that the listeners follow, there are two more keys. An entry stays until its node reports that it has been
-- processed, so that another node takes over if the node dies:
--   changes, the beginnings and ends of memberships that must be reported (a hash: user -> JSON list of
--     {sign, id, name}, in their order);
--   claims, until when a node has the first entry of a user (a zset: user -> time in ms).
-- The replies then end with the entries that the calling node has claimed (see claimed below).
-- memory_presence.py explains the rules of announcements.
-- A server without memory refuses commands that need some, from the first one of a script on. So each change begins with
-- such a command: nothing is changed then, and the node tries it again.

local nodes, users, order, gone, open, due, journal, updates, channel = unpack(KEYS)
local node, lease, grace, max_users, publish = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local changes, claims = KEYS[10], KEYS[11]
local SECOND, MINUTE, HOUR = 1000, 60000, 3600000
local JOURNAL_SIZE = 1000
-- How many changes of one user wait. Beyond that, a leave and the next join cancel each other.
local MAX_CHANGES = 16
-- How long the users of a room without living nodes are kept. Changes must be reported also after all nodes were down.
local keep = changes and 24 * HOUR or 4 * lease + 2 * grace

local function text(number)
  return string.format('%.0f', number)
end

-- The changes that the calling node has claimed: of each the user, the sign, the id and the name.
local claimed = {}
local function claim(user, change)
  redis.call('ZADD', claims, now + lease, user)
  redis.call('PEXPIRE', claims, keep)
  for _, value in ipairs({user, change[1], change[2], change[3]}) do
    claimed[#claimed + 1] = value
  end
end

-- Records that a user became a member (+), or stopped to be one (-). Called before anything else is changed.
local last_change = 0
local function record_change(sign, user, name)
  if not changes then
    return
  end
  local stored = redis.call('HGET', changes, user)
  local waiting = stored and cjson.decode(stored) or {}
  if #waiting >= MAX_CHANGES and waiting[#waiting][1] ~= sign then
    waiting[#waiting] = nil
  else
    last_change = last_change + 1
    waiting[#waiting + 1] = {sign, text(time[1] * 1000000 + time[2]) .. '-' .. last_change, name}
  end
  redis.call('HSET', changes, user, cjson.encode(waiting))
  redis.call('PEXPIRE', changes, keep)
  if not stored then
    claim(user, waiting[1])
  end
end

-- Claims up to 100 changes whose nodes have died.
local function claim_expired()
  if not changes then
    return
  end
  for _, user in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', now, 'LIMIT', 0, 100)) do
    local stored = redis.call('HGET', changes, user)
    if stored then
      claim(user, cjson.decode(stored)[1])
    else
      redis.call('ZREM', claims, user)
    end
  end
end

-- Appends what was claimed to a reply, in rooms that are followed.
local function with_claimed(reply)
  if changes then
    reply[#reply + 1] = claimed
  end
  return reply
end

-- Returns the state of the calling node's lease: 0 none, 1 valid, 2 expired.
local function own_lease_state()
  local lease_end = redis.call('ZSCORE', nodes, node)
  if not lease_end then
    return 0
  end
  return tonumber(lease_end) > now and 1 or 2
end

-- The keys outlive a lease, so that a node that returns after a pause finds expired leases. No keys mean lost data.
-- Renewals extend the order. A write need not, unless it has created the key.
local function set_expiry(with_order)
  redis.call('PEXPIRE', nodes, keep)  -- not before the users: no node would remove those of dead nodes then
  redis.call('PEXPIRE', users, keep)
  if with_order then
    redis.call('PEXPIRE', order, keep)
  end
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

-- Sends an announcement, with a signature (see room.lua).
local function send(head)
  redis.call(publish, channel, head .. '\n' .. string.sub(redis.sha1hex(ARGV[1] .. channel .. head), 1, 16))
end

-- Announces a join (+) or a leave (-), with an id.
local function announce(sign, user, name)
  local content = ' [' .. user .. ',' .. cjson.encode(name) .. ']'
  local id = redis.call('XADD', journal, 'MAXLEN', '~', JOURNAL_SIZE, '*', 'm', sign .. content)
  redis.call('PEXPIRE', journal, sign == '+' and 10 * MINUTE or journal_time_to_live())
  send(sign .. id .. content)
end

-- Returns the time of the announcement, or nil if the room has too many users. count includes the user.
local function announce_join(user, name, count)
  if count > max_users then
    return nil
  end
  announce('+', user, name)
  return now
end

local function schedule(user, at)
  redis.call('ZADD', due, at, user)
  redis.call('PEXPIRE', due, keep)
end

local function open_user(user, one, at)
  redis.call('HSET', open, user, cjson.encode(one))
  redis.call('PEXPIRE', open, keep)
  schedule(user, at)
end

local function close_user(user)
  redis.call('HDEL', open, user)
  redis.call('ZREM', due, user)
end

-- has_status is false if no status of the user was announced.
local function remove_user(user, has_status)
  redis.call('HDEL', users, user)
  redis.call('ZREM', order, user)
  if has_status then
    redis.call('ZREM', updates, user)
  end
end

-- Returns true if the join of a user without a value joined waits for the end of the grace.
local function is_held(user)
  return redis.call('HEXISTS', open, user) == 1
end

-- Returns the next id of an announced status.
local last_update
local function next_update()
  if not last_update then
    local top = redis.call('ZREVRANGE', updates, 0, 0, 'WITHSCORES')
    last_update = tonumber(top[2] or 0)
  end
  last_update = math.max(time[1] * 1000000 + time[2], last_update + 1)
  return last_update
end

-- Announces the status of a user, or lets it wait if another one was announced within the last second. Changes one, which
-- the caller must store. In a room with too many users, only the nodes learn it if the user is on several: each of them
-- writes it again if the server loses its data.
local function announce_status(user, one)
  if not one.joined and is_held(user) then
    return
  end
  local is_silent = redis.call('HLEN', users) > max_users
  if is_silent and next(one.nodes, (next(one.nodes))) == nil then
    one.w = nil
    return
  end
  if one.u and now >= one.u and now < one.u + SECOND then
    schedule(user, one.u + SECOND)
    return
  end
  one.u, one.w = now, nil
  local id = text(next_update())
  if not is_silent then
    redis.call('ZREMRANGEBYSCORE', updates, '-inf', (now - 10 * MINUTE) * 1000)
    redis.call('ZADD', updates, id, user)
    redis.call('PEXPIRE', updates, 10 * MINUTE)
  end
  local content = {one.name, one.t, one.s or '', is_silent}
  send('~' .. id .. ' [' .. user .. ',' .. string.sub(cjson.encode(content), 2))
end

-- Announces that a user left who was removed, if members may know the user: those of a smaller room know all users from
-- the list of members.
local function announce_leave(user, one)
  if not one.joined and redis.call('HLEN', users) >= max_users then
    return
  end
  announce('-', user, one.name)
  if one.joined and one.joined + grace > now then
    open_user(user, {name = one.name, joined = one.joined, is_in = false}, one.joined + grace)
  end
end

-- Removes a user without connections from the room, and announces that now or later. gone_for is how long the user counts
-- as gone, in ms.
local function depart(user, one, is_lost, gone_for)
  local held = not one.joined and is_held(user)
  local is_away = is_lost and grace > 0 and not held
  record_gone(user, is_away and gone_for + grace or gone_for)
  if is_away then
    redis.call('HSET', users, user, cjson.encode(one))
    open_user(user, {name = one.name, joined = one.joined or 0, is_in = true, until_ms = now + grace}, now + grace)
    if one.w then
      schedule(user, math.min(now + grace, (one.u or 0) + SECOND))
    end
    return
  end
  record_change('-', user, one.name)
  remove_user(user, one.u)
  if not held then  -- the members were not told of a held join
    announce_leave(user, one)
  end
end

-- Announces what is due of a user.
local function settle(user)
  local stored, opened = redis.call('HGET', users, user), redis.call('HGET', open, user)
  local one, state = stored and cjson.decode(stored), opened and cjson.decode(opened)
  if not one then
    if state and state.is_in then
      record_change('-', user, state.name)  -- the server lost the user
      announce('-', user, state.name)
    end
    close_user(user)
    return
  end
  local is_away = next(one.nodes) == nil
  if is_away and (not state or now >= (state.until_ms or 0)) then
    record_change('-', user, one.name)
    if one.joined or redis.call('HLEN', users) <= max_users then
      announce('-', user, one.name)
    end
    close_user(user)
    remove_user(user, one.u)
    return
  end
  if not is_away and not one.joined and state then
    one.joined = announce_join(user, one.name, redis.call('HLEN', users))
    redis.call('ZADD', order, one.at, user)
    state = nil
    one.w = one.w or (one.s and true)
  end
  redis.call('HSET', users, user, cjson.encode(one))
  close_user(user)
  if is_away then
    open_user(user, state, state.until_ms)
  end
  if one.w then
    announce_status(user, one)
    redis.call('HSET', users, user, cjson.encode(one))
  end
end

-- Announces up to 100 users that are due. Returns in how many ms the next one is due, or -1.
local function announce_due()
  for _, user in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 100)) do
    settle(user)
  end
  local first = redis.call('ZRANGEBYSCORE', due, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and math.max(tonumber(first[2]) - now, 0) or -1
end

-- Removes dead nodes from the room.
-- A node whose own lease has expired must not remove others: perhaps the server was suspended, and all nodes are alive.
-- The lease of a node without members was restored from an older state of the server, and shows nothing.
local function remove_dead_nodes(own_state)
  if ARGV[5] == '0' or (ARGV[5] == '1' and own_state == 2) then
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
      depart(all[i], one, true, HOUR)
    elseif was_on_dead_node then
      record_gone(all[i], HOUR)
      redis.call('HSET', users, all[i], cjson.encode(one))
    end
  end
  for _, name in ipairs(dead) do
    redis.call('ZREM', nodes, name)
  end
end
