-- Publishes a batch: the events of each room in order, all or none, announced in one message per room.
-- Appended to room.lua.
-- KEYS: receipt; for each room: meta, stream, channel, and for each event: an idempotency key if it has one, and if it is
--   followed: events (a hash: id -> payload) and claims (a zset: id -> end of the claim in ms). Both have the followed
--   events until a node has processed them. Their node has a claim, and another node takes over if it dies.
-- ARGV: generation, how often this call was sent before; number of the batch, TTL of the receipt in ms, size of a stream
--   in bytes, TTL of the meta in ms, TTL of the idempotency keys in ms, PUBLISH or SPUBLISH, TTL of the meta of a room with
--   messages in ms; number of limits, and for each of them: size of a stream in events, its TTL in ms, after how many ms
--   its TTL is extended; number of rooms; for each room: the number of its limits, and the number of events; for each
--   event: letters, and the payload: 'k' if it has a key, 'm' if it is a message, 'h' if it is followed. If it is, the
--   length of the claim in ms follows the payload.
-- Returns the ids in order, then for each message the number of messages up to it, or -1 if it is a repeat; then for each
--   followed event 1, or -1 if it is a repeat.

local generation, sent, number = ARGV[1], ARGV[2], ARGV[3]
local half, room_ttl, key_ttl, announce, message_ttl = ARGV[5] / 2, ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local HAS_KEY = {k = true, km = true, kh = true, kmh = true}
local IS_MESSAGE = {m = true, km = true, mh = true, kmh = true}
local IS_FOLLOWED = {h = true, kh = true, mh = true, kmh = true}
local FOLLOWED_TTL = 24 * 3600000
local LIMITS = 10  -- the index of the number of limits
local arg = LIMITS + 3 * ARGV[LIMITS] + 1
local rooms = tonumber(ARGV[arg])
arg = arg + 1

-- Begins a segment with the event id, because the current one would be longer than half of the stream may be. Drops the
-- events before the current segment, or all older ones if only that keeps to the limit. Reads no events.
local function begin_segment(meta, stream, id, is_large)
  local first = is_large and id or redis.call('HGET', meta, 'i')
  if first then
    redis.call('XTRIM', stream, 'MINID', first)
  end
  redis.call('HSET', meta, 'i', id)
end

-- Adds an event to a stream of this size; others is the field n, or nil. Returns false if that created the stream. A stream that was evicted or
-- deleted is created again without an expiry.
local function add_event(stream, size, id, time, payload, others)
  if not others then
    if redis.call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', size, id, 't', time, 'p', payload) then
      return true
    end
    redis.call('XADD', stream, id, 't', time, 'p', payload)
  else
    if redis.call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', size, id, 't', time, 'p', payload, 'n', others) then
      return true
    end
    redis.call('XADD', stream, id, 't', time, 'p', payload, 'n', others)
  end
  return false
end

-- The key of a receipt is used again for later batches, which have other numbers.
if sent ~= '0' then
  local done = redis.call('GET', KEYS[1])
  if done then
    local split = string.find(done, ' ', 1, true)
    if string.sub(done, 1, split - 1) == number then
      return cjson.decode(string.sub(done, split + 1))
    end
  end
end

local now = clock()
local time = text(now)
local ids, counts, followed = {}, {}, {}
local key = 2
for _ = 1, rooms do
  local meta, stream, channel = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  key = key + 3
  local limits = LIMITS + 3 * ARGV[arg]
  local size, ttl, extension = ARGV[limits - 2], ARGV[limits - 1], tonumber(ARGV[limits])
  local events = tonumber(ARGV[arg + 1])
  arg = arg + 2
  local epoch, offset, extended_at, bytes, count = open_room(meta, stream, generation)
  local newest_offset = tonumber(offset)
  local first = text(newest_offset + 1)
  local payloads, lengths = {}, {}
  local others, others_number
  for _ = 1, events do
    local id
    local kind = ARGV[arg]
    local has_key = HAS_KEY[kind]
    local is_repeat = true
    if has_key then
      id = redis.call('GET', KEYS[key])
    end
    if not id then
      is_repeat = false
      if count > 0 and newest_offset - count ~= others_number then  -- rare: formatting a number takes 0.3 us
        others_number = newest_offset - count
        others = text(others_number)
      end
      newest_offset = newest_offset + 1
      offset = text(newest_offset)
      local payload = ARGV[arg + 1]
      id = epoch .. '-' .. offset
      -- The expiry of a stream that was created is set below.
      if not add_event(stream, size, id, time, payload, others) then
        extended_at, bytes = 0, 0
      end
      if bytes + #payload > half then
        begin_segment(meta, stream, id, bytes > half or #payload > half)
        bytes = 0
      end
      bytes = bytes + #payload
      payloads[#payloads + 1] = payload
      lengths[#lengths + 1] = #payload
      if has_key then
        redis.call('SET', KEYS[key], id, 'PX', key_ttl)
      end
    end
    if has_key then
      key = key + 1
    end
    if IS_FOLLOWED[kind] then
      if not is_repeat then
        redis.call('HSET', KEYS[key], id, ARGV[arg + 1])
        redis.call('ZADD', KEYS[key + 1], now + ARGV[arg + 2], id)
        redis.call('PEXPIRE', KEYS[key], FOLLOWED_TTL)
        redis.call('PEXPIRE', KEYS[key + 1], FOLLOWED_TTL)
      end
      followed[#followed + 1] = is_repeat and -1 or 1
      key, arg = key + 2, arg + 1
    end
    if IS_MESSAGE[kind] then
      if not is_repeat then
        count = count + 1
      end
      counts[#counts + 1] = is_repeat and -1 or count
    end
    arg = arg + 2
    ids[#ids + 1] = id
  end
  if #payloads > 0 then
    -- The TTLs are longer by the time after which they are extended. That saves two calls for most batches.
    local messages = '0'
    if count > 0 then
      messages = text(count)
      redis.call('HSET', meta, 'o', offset, 'b', bytes, 'c', messages)
    else
      redis.call('HSET', meta, 'o', offset, 'b', bytes)
    end
    if now - extended_at > extension then
      redis.call('HSET', meta, 'x', time)
      redis.call('PEXPIRE', meta, count > 0 and message_ttl or room_ttl)
      redis.call('PEXPIRE', stream, ttl)
    end
    local head = epoch .. ' ' .. first .. ' ' .. messages .. ' ' .. table.concat(lengths, ' ')
    send_announcement(announce, channel, own_generation or generation, head, table.concat(payloads))
  elseif extended_at == 0 then
    redis.call('PEXPIRE', meta, count > 0 and message_ttl or room_ttl)
  end
end
for i = 1, #counts do
  ids[#ids + 1] = counts[i]
end
for i = 1, #followed do
  ids[#ids + 1] = followed[i]
end
redis.call('SET', KEYS[1], number .. ' ' .. cjson.encode(ids), 'PX', ARGV[4])
return ids
