-- Publishes a batch: to each room its events in order, all or none, announced in one message a room.
-- KEYS: receipt; for each room: meta, stream, channel, and a key for each event that has one.
-- ARGV: run_id, how often this was sent before; receipt's ms, history size, its ms, the meta's ms, the idempotency
--   keys' ms, PUBLISH or SPUBLISH, the number of rooms; for each room: the number of events; for each event: '1' if it
--   has a key, else '', and the payload.
-- Returns the ids, in order.

local run, sent = ARGV[1], ARGV[2]
local receipt_life, size, ttl, life, key_life = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local announce, rooms = ARGV[8], tonumber(ARGV[9])

if sent ~= '0' then
  local done = redis.call('GET', KEYS[1])
  if done then
    return cjson.decode(done)
  end
end

local now = clock()
local ids = {}
local key, arg = 2, 10
for _ = 1, rooms do
  local meta, stream, channel = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  key = key + 3
  local events = tonumber(ARGV[arg])
  arg = arg + 1
  local epoch, offset = open_room(meta, stream, run, life, true)
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
      redis.call('XADD', stream, 'MAXLEN', '~', size, id, 't', text(now), 'p', payload)
      payloads[#payloads + 1] = payload
      lengths[#lengths + 1] = #payload
      if keyed then
        redis.call('SET', KEYS[key], id, 'PX', key_life)
      end
    end
    if keyed then
      key = key + 1
    end
    arg = arg + 2
    ids[#ids + 1] = id
  end
  if #payloads > 0 then
    redis.call('HSET', meta, 'o', text(top))
    redis.call('PEXPIRE', stream, ttl)
    local head = epoch .. ' ' .. text(first)
    if #payloads > 1 then
      head = head .. ' ' .. table.concat(lengths, ' ')
    end
    redis.call(announce, channel, head .. '\n' .. table.concat(payloads))
  end
end
redis.call('SET', KEYS[1], cjson.encode(ids), 'PX', receipt_life)
return ids
