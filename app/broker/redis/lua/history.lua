-- Reads a room's history. Appended to room.lua. KEYS: meta, stream.
-- ARGV: run_id, how often this call was sent before; epoch and offset of the last event that the caller has, or '' and
--   '' for the newest events; maximum number of events; history size, TTL of its events in ms, TTL of the meta in ms.
-- Returns the epoch; the newest offset; 1 if the history reaches back to the given event, otherwise 0; and the events,
--   ids and payloads alternating, oldest first.

local run, epoch_seen, since = ARGV[1], ARGV[3], ARGV[4]
local limit, size, ttl, room_ttl = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local now = clock()
local epoch, offset = open_room(KEYS[1], KEYS[2], run, true)
extend_room(KEYS[1], room_ttl)
local newest_offset = tonumber(offset)
local found = {}

local function payload_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'p' then
      return fields[i + 1]
    end
  end
end

local function is_fresh(fields)
  return tonumber(fields[2]) > now - ttl
end

if since == '' then
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', math.min(limit, size)) or {}
  for i = #newest, 1, -1 do
    if is_fresh(newest[i][2]) then
      found[#found + 1] = newest[i][1]
      found[#found + 1] = payload_of(newest[i][2])
    end
  end
  return {epoch, offset, 1, found}
end

local seen = tonumber(since)
if epoch_seen ~= epoch or seen > newest_offset or seen < newest_offset - size then
  return {epoch, offset, 0, found}
end
if seen == newest_offset then
  return {epoch, offset, 1, found}
end
local first = text(seen + 1)
local events = redis.call('XRANGE', KEYS[2], epoch .. '-' .. first, epoch .. '-' .. offset, 'COUNT', limit) or {}
if #events == 0 or events[1][1] ~= epoch .. '-' .. first or not is_fresh(events[1][2]) then
  return {epoch, offset, 0, found}
end
for _, event in ipairs(events) do
  found[#found + 1] = event[1]
  found[#found + 1] = payload_of(event[2])
end
return {epoch, offset, 1, found}
