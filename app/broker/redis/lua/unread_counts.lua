-- Reads what is needed to count the unread messages of any user. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; history size, TTL of its events in ms.
-- Returns the number of messages before the history; for each epoch that is kept, in order: the epoch, the offset and the
--   number of messages before its first event.

local meta, stream = KEYS[1], KEYS[2]
local size, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local fields, values = redis.call('HGETALL', meta), {}
for i = 1, #fields, 2 do
  values[fields[i]] = fields[i + 1]
end
if not values.e then
  return {0}
end
local total, newest_offset = tonumber(values.c or 0), tonumber(values.o)
local epochs = read_epochs(meta, tonumber(values.e))
local oldest_time = clock() - ttl

-- Returns the first event of the stream at or after the offset, or nil.
local function event_at(offset)
  local epoch = '0'
  for _, one in ipairs(epochs) do
    if one[2] < offset then
      epoch = text(one[1])
    end
  end
  return redis.call('XRANGE', stream, epoch .. '-' .. text(offset), '+', 'COUNT', 1)[1]
end

local function is_recent(event)
  return tonumber(event[2][2]) > oldest_time
end

-- The history begins with the first event that is among the newest ones and recent. Times increase with the offsets.
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if first then
  local offset = tonumber(string.match(first[1], '%d+$'))
  local low, high = math.max(offset, newest_offset - size + 1), newest_offset + 1
  if low > offset then
    first = event_at(low)
  end
  if first and not is_recent(first) then
    first = nil
    while low + 1 < high do  -- the event at low is too old, the one at high is recent, or does not exist
      local middle = math.floor((low + high) / 2)
      local event = event_at(middle)
      if event and is_recent(event) then
        first, high = event, middle
      else
        low = middle
      end
    end
  end
end

local reply = {first and messages_before(first, total) or total}
for epoch, offset, count in string.gmatch(values.k or '', '(%d+) (%d+) (%d+)') do
  reply[#reply + 1] = tonumber(epoch)
  reply[#reply + 1] = tonumber(offset)
  reply[#reply + 1] = tonumber(count)
end
for _, one in ipairs(epochs) do
  local epoch = text(one[1])
  reply[#reply + 1] = one[1]
  reply[#reply + 1] = one[2]
  reply[#reply + 1] = tonumber(values['c' .. epoch] or 0)
end
return reply
