-- Reads a room's history. KEYS: meta, stream.
-- ARGV: run_id, how often this was sent before; epoch and offset of the last event seen, or '' and '' for all; how many
--   at most; history size, its ms, the meta's ms.
-- Returns epoch, newest offset, 1 if the history reaches back, and the events: ids and payloads in turn, oldest first.

local run, epoch_seen, since = ARGV[1], ARGV[3], ARGV[4]
local limit, size, ttl, life = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local now = clock()
local epoch, offset = open_room(KEYS[1], KEYS[2], run, true)
keep_room(KEYS[1], life)
local top = tonumber(offset)
local found = {}

local function payload_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'p' then
      return fields[i + 1]
    end
  end
end

local function fresh(fields)
  return tonumber(fields[2]) > now - ttl
end

if since == '' then
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', math.min(limit, size)) or {}
  for i = #newest, 1, -1 do
    if fresh(newest[i][2]) then
      found[#found + 1] = newest[i][1]
      found[#found + 1] = payload_of(newest[i][2])
    end
  end
  return {epoch, offset, 1, found}
end

local seen = tonumber(since)
if epoch_seen ~= epoch or seen > top or seen < top - size then
  return {epoch, offset, 0, found}
end
if seen == top then
  return {epoch, offset, 1, found}
end
local first = text(seen + 1)
local events = redis.call('XRANGE', KEYS[2], epoch .. '-' .. first, epoch .. '-' .. offset, 'COUNT', limit) or {}
if #events == 0 or events[1][1] ~= epoch .. '-' .. first or not fresh(events[1][2]) then
  return {epoch, offset, 0, found}
end
for _, event in ipairs(events) do
  found[#found + 1] = event[1]
  found[#found + 1] = payload_of(event[2])
end
return {epoch, offset, 1, found}
