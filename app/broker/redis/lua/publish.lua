-- Publishes a batch: to each room its events in order, all or none, announced in one message a room.
-- KEYS: receipt; for each room: meta, stream, channel, and a key for each event that has one.
-- ARGV: run_id, how often this was sent before; the batch's number, the receipt's ms, history size, its ms, the meta's ms,
--   the idempotency keys' ms, PUBLISH or SPUBLISH, the number of rooms; for each room: the number of events; for each
--   event: '1' if it has a key, else '', and the payload.
-- Returns the ids, in order.

local run, sent, number = ARGV[1], ARGV[2], ARGV[3]
local size, ttl, life = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local announce, rooms = ARGV[9], tonumber(ARGV[10])

-- A receipt's key is used again for a later batch, which has another number.
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
local key, arg = 2, 11
for _ = 1, rooms do
  local meta, stream, channel = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  key = key + 3
  local events = tonumber(ARGV[arg])
  arg = arg + 1
  local epoch, offset, put_off = open_room(meta, stream, run, true)
  local top = tonumber(offset)
  local first = top + 1
  local payloads, lengths = {}, {}
  for _ = 1, events do
    local id
    local keyed = ARGV[arg] == '1'
    if keyed then
      id = redis.call('GET', KEYS[key])
    end
    if not id then
      top = top + 1
      local payload = ARGV[arg + 1]
      id = epoch .. '-' .. text(top)
      -- A stream that was evicted or deleted begins anew without an end, so that has to be given to it.
      if not redis.call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', size, id, 't', time, 'p', payload) then
        redis.call('XADD', stream, id, 't', time, 'p', payload)
        put_off = 0
      end
      payloads[#payloads + 1] = payload
      lengths[#lengths + 1] = #payload
      if keyed then
        redis.call('SET', KEYS[key], id, 'PX', ARGV[8])
      end
    end
    if keyed then
      key = key + 1
    end
    arg = arg + 2
    ids[#ids + 1] = id
  end
  if #payloads > 0 then
    -- The ends are put off now and then, and by as much further: two calls less for most batches.
    if now - put_off > life / 4 then
      redis.call('HSET', meta, 'o', text(top), 'x', time)
      keep_room(meta, life)
      redis.call('PEXPIRE', stream, text(ttl + life / 4))
    else
      redis.call('HSET', meta, 'o', text(top))
    end
    local head = epoch .. ' ' .. text(first)
    if #payloads > 1 then
      head = head .. ' ' .. table.concat(lengths, ' ')
    end
    redis.call(announce, channel, head .. '\n' .. table.concat(payloads))
  elseif put_off == 0 then
    keep_room(meta, life)
  end
end
redis.call('SET', KEYS[1], number .. ' ' .. cjson.encode(ids), 'PX', ARGV[4])
return ids
