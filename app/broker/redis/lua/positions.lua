-- Shared by the scripts that compare a position in a room with the room. Appended to room.lua.
-- A position is the id of the last event that a node or a client has. A position after the end of its epoch belongs to a
-- lost event. Nodes report their positions when they connect to a server, and some only later.

-- Returns the room's epoch, offset, generation, oldest valid epoch, the offset before the first event of the epoch seen,
-- and the number of messages. They are false if they do not exist.
local function read_room(meta, seen)
  return unpack(redis.call('HMGET', meta, 'e', 'o', 'g', 'l', seen, 'c'))
end

-- Compares the position (seen, offset_seen) with the room. Returns two values:
-- 1. true if the position is valid: the room has assigned this id, and has lost no event since then.
-- 2. true if it proves a loss that is not known yet. Of a node, which is_trusted, every position counts. A client may
--   send anything, so only positions after the end of a known epoch count, which makes all later ones of it invalid.
-- Ids that a room without events had before the time empty_since, in microseconds, are invalid.
local function compare(meta, generation, seen, offset_seen, is_trusted, empty_since)
  local epoch, offset, begun_by, valid_from, base = read_room(meta, seen)
  local number = tonumber(seen)
  if not epoch then
    return offset_seen == 0 and number >= empty_since, is_trusted and offset_seen > 0
  end
  if valid_from and number < tonumber(valid_from) then
    return false, false
  end
  if seen == epoch then
    if offset_seen <= tonumber(offset) then
      return offset_seen >= tonumber(base or 0), false
    end
    return false, is_trusted or (begun_by ~= generation and begun_by ~= read_generation())
  end
  local epochs = read_epochs(meta, tonumber(epoch))
  for i = 1, #epochs - 1 do
    if epochs[i][1] == number then
      local last = epochs[i + 1][2]
      return offset_seen >= epochs[i][2] and offset_seen <= last, offset_seen > last
    end
  end
  local first = epochs[1]
  if offset_seen == 0 then  -- the room had no event at the time seen
    return number >= empty_since and number < first[1] and first[2] == 0, false
  end
  -- An epoch that is unknown here was begun by a server whose data is lost, unless it is too old to be kept.
  return false, is_trusted and (number > first[1] or first[2] == 0)
end

-- Records that events after the position (seen, _) were lost: begins an epoch, and makes the ids of all others invalid.
-- Announces the newest offset in the new epoch, so that every node with members compares its position as well.
local function record_loss(meta, stream, seen, announce)
  local epoch, offset, _, _, _, count = read_room(meta, seen)
  local known = epoch and read_epochs(meta, tonumber(epoch)) or {}
  local begins = new_epoch(math.max(tonumber(epoch or 0), tonumber(seen)), stream)
  offset = offset or '0'
  local counts = {}
  for _, one in ipairs(known) do
    local name = text(one[1])
    counts[#counts + 1] = name .. ' ' .. text(one[2]) .. ' ' .. (redis.call('HGET', meta, 'c' .. name) or '0')
    forget_epoch(meta, one[1])
  end
  redis.call('HSET', meta, 'o', offset, 'l', begins)
  set_epoch(meta, begins, offset, count)
  if count then
    redis.call('HSET', meta, 'k', table.concat(counts, ' '))
  end
  send_announcement(announce, string.sub(meta, 1, -3), read_generation(), begins .. ' ' .. offset .. ' ' .. (count or '0'), '')
end

-- Lets the room's meta live for ttl ms from now, and a little longer, so that few calls write.
local function extend_room(meta, ttl, extension)
  if redis.call('PTTL', meta) < tonumber(ttl) then
    redis.call('PEXPIRE', meta, text(ttl + extension))
  end
end

-- Returns the number of messages up to the event id, or up to where it was if it is not stored any more: messages between
-- it and the next stored event were dropped, and count as read. total is the number of all messages.
local function count_until(stream, id, total)
  local following = redis.call('XRANGE', stream, '(' .. id, '+', 'COUNT', 1)[1]
  return following and messages_before(following, total) or total
end
