-- Publishes a batch: the events of each room in order, all or none, announced in one message per room.
-- Appended to room.lua.
-- KEYS: receipt; for each room: meta, stream, channel, and one idempotency key for each event that has a key.
-- ARGV: generation, how often this call was sent before; number of the batch, TTL of the receipt in ms, size of the
--   stream in events and in bytes, TTL of the stream and of the meta in ms, after how many ms they are extended, TTL of
--   the idempotency keys in ms, PUBLISH or SPUBLISH, number of rooms; for each room: the number of events; for each
--   event: '1' if it has a key, otherwise '', and the payload.
-- Returns the ids in order.

local generation, sent, number = ARGV[1], ARGV[2], ARGV[3]
local size, half, ttl, room_ttl, extension = ARGV[5], ARGV[6] / 2, ARGV[7], ARGV[8], tonumber(ARGV[9])
local announce, rooms = ARGV[11], tonumber(ARGV[12])

-- Begins a segment with the event id, because the current one would be longer than half of the stream may be. Drops the
-- events before the current segment, or all older ones if only that keeps to the limit. Reads no events.
local function begin_segment(meta, stream, id, is_large)
  local first = is_large and id or redis.call('HGET', meta, 'i')
  if first then
    redis.call('XTRIM', stream, 'MINID', first)
  end
  redis.call('HSET', meta, 'i', id)
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
local ids = {}
local key, arg = 2, 13
for _ = 1, rooms do
  local meta, stream, channel = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  key = key + 3
  local events = tonumber(ARGV[arg])
  arg = arg + 1
  local epoch, offset, extended_at, bytes = open_room(meta, stream, generation)
  local newest_offset = tonumber(offset)
  local first = text(newest_offset + 1)
  local payloads, lengths = {}, {}
  for _ = 1, events do
    local id
    local has_key = ARGV[arg] == '1'
    if has_key then
      id = redis.call('GET', KEYS[key])
    end
    if not id then
      newest_offset = newest_offset + 1
      offset = text(newest_offset)
      local payload = ARGV[arg + 1]
      id = epoch .. '-' .. offset
      -- A stream that was evicted or deleted is created again without an expiry, so set it below.
      if not redis.call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', size, id, 't', time, 'p', payload) then
        redis.call('XADD', stream, id, 't', time, 'p', payload)
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
        redis.call('SET', KEYS[key], id, 'PX', ARGV[10])
      end
    end
    if has_key then
      key = key + 1
    end
    arg = arg + 2
    ids[#ids + 1] = id
  end
  if #payloads > 0 then
    -- The TTLs are longer by the time after which they are extended. That saves two calls for most batches.
    if now - extended_at > extension then
      redis.call('HSET', meta, 'o', offset, 'b', bytes, 'x', time)
      redis.call('PEXPIRE', meta, room_ttl)
      redis.call('PEXPIRE', stream, ttl)
    else
      redis.call('HSET', meta, 'o', offset, 'b', bytes)
    end
    local head = epoch .. ' ' .. first .. ' ' .. table.concat(lengths, ' ')
    send_announcement(announce, channel, own_generation or generation, head, table.concat(payloads))
  elseif extended_at == 0 then
    redis.call('PEXPIRE', meta, room_ttl)
  end
end
redis.call('SET', KEYS[1], number .. ' ' .. cjson.encode(ids), 'PX', ARGV[4])
return ids
