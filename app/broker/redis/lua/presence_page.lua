-- Reads a page of the users in a room, in order of arrival, without those whose join is held.
-- ARGV, after those of presence.lua: the number of arrival after which the page begins, or '0'; the maximum number of users;
--   the maximum number of bytes, for at least one user; a user, or ''.
-- Returns when the next announcement is due; the number of users in the room; the number of users that are listed on all
--   pages; 1 if the given user is one of them, otherwise 0; the number after which the next page begins, or '' if this is
--   the last page; the time in ms; and for each user: the user, its number and its JSON.

remove_dead_nodes(own_lease_state())
local has_announced, next_due = pcall(announce_due)  -- members can be read while the server has no memory
local after, limit, max_bytes = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

-- Returns all users with their numbers in order, after it stored them. Needed if a node of an older version wrote users, or
-- if the server evicted the key.
local function rebuild_order()
  local all, numbered = redis.call('HGETALL', users), {}
  for i = 1, #all, 2 do
    local one = cjson.decode(all[i + 1])
    if one.joined or not is_held(all[i]) then
      numbered[#numbered + 1] = {all[i], tonumber(one.at)}
    else
      numbered[#numbered + 1] = {all[i], -tonumber(one.at)}
    end
  end
  table.sort(numbered, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  for i = 2, #numbered do
    numbered[i][2] = math.max(numbered[i][2], numbered[i - 1][2] + 1)
  end
  pcall(function()
    redis.call('ZADD', order, 0, '')  -- refused by a server without memory, before anything is changed
    redis.call('DEL', order)
    for _, one in ipairs(numbered) do
      redis.call('ZADD', order, text(one[2]), one[1])
    end
    redis.call('PEXPIRE', order, math.max(redis.call('PTTL', users), 1))
  end)
  return numbered
end

-- Returns users and numbers alternating, at most one more than the page can have, and the number of listed users.
local function read_order()
  local ranged = redis.call('ZRANGEBYSCORE', order, '(' .. text(after), '+inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
  return ranged, redis.call('ZCOUNT', order, 0, '+inf')
end

local function read_rebuilt()
  local numbered, ranged, listed = rebuild_order(), {}, 0
  for _, one in ipairs(numbered) do
    listed = listed + (one[2] >= 0 and 1 or 0)
    if one[2] > after and #ranged < 2 * (limit + 1) then
      ranged[#ranged + 1], ranged[#ranged + 2] = one[1], text(one[2])
    end
  end
  return ranged, listed
end

local ranged, listed
local is_rebuilt = redis.call('ZCARD', order) ~= redis.call('HLEN', users)
if is_rebuilt then
  ranged, listed = read_rebuilt()
else
  ranged, listed = read_order()
end

-- Returns the users of the page and the number after which the next one begins, or nil if the order has unknown users.
local function build_page()
  local found, bytes, last = {}, 0, ''
  for i = 1, #ranged, 2 do
    if #found == limit * 3 then
      return found, last
    end
    local value = redis.call('HGET', users, ranged[i])
    if not value then
      return nil
    end
    bytes = bytes + #ranged[i] + #value + 20  -- at least as much as the entry in a frame takes
    if bytes > max_bytes and #found > 0 then
      return found, last
    end
    -- If the server evicted the key of due users, an absent user would stay listed permanently.
    if string.find(value, '"nodes":{}', 1, true) and not redis.call('ZSCORE', due, ranged[i]) then
      pcall(schedule, ranged[i], now)
      next_due = 0
    end
    last = ranged[i + 1]
    found[#found + 1], found[#found + 2], found[#found + 3] = ranged[i], last, value
  end
  return found, ''
end

local found, last = build_page()
if not found then
  ranged, listed = read_rebuilt()
  found, last = build_page()
end
local is_listed = 0
if ARGV[12] ~= '' then
  local number = redis.call('ZSCORE', order, ARGV[12])
  is_listed = number and tonumber(number) >= 0 and 1 or 0
end
return with_claimed({
  has_announced and next_due or 0, redis.call('HLEN', users), listed, is_listed, last, text(now), found,
})
