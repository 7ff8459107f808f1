-- Reads a room's history. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; TTL of the meta in ms, how much longer it may live in ms,
--   PUBLISH or SPUBLISH; epoch and offset of the last event that the caller has, or '' and '' for the newest events;
--   '1' if the caller is a node, '' if it is a client; maximum number of events; history size, TTL of its events in ms.
-- Returns the epoch and the newest offset; 1 if the history reaches back to the given event, otherwise 0; the events,
--   ids and payloads alternating, oldest first; the offset from which a node continues in this epoch if it does not
--   reach back; 1 if no report of another node can change that it reaches back, otherwise 0.

local meta, stream = KEYS[1], KEYS[2]
local generation, room_ttl, seen, offset_seen = ARGV[1], tonumber(ARGV[3]), ARGV[6], tonumber(ARGV[7])
local is_node, limit, size, ttl = ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local now = clock()

local is_valid, is_loss = true, false
if seen ~= '' then
  -- A room without events may have had a meta that has expired since. A node would have received its events.
  local empty_since = is_node and 0 or (now - room_ttl) * 1000
  is_valid, is_loss = compare(meta, generation, seen, offset_seen, is_node, empty_since)
end
if is_loss then
  record_loss(meta, stream, seen, ARGV[5])
end

local epoch, offset, begun_by, _, base = read_room(meta, seen)
if not epoch then
  return {text((now - 1) * 1000), '0', is_valid and 1 or 0, {}, '0', (seen == '' or not is_valid) and 1 or 0}
end
extend_room(meta, room_ttl, ARGV[4])
local newest_offset = tonumber(offset)

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

-- Returns up to count stored events after the id (after, at), or nothing if the event at + 1 is not stored any more.
local function read_events(after, at, count)
  if at < newest_offset - size then
    return nil
  end
  local events = redis.call('XRANGE', stream, after .. '-' .. text(at + 1), epoch .. '-' .. offset, 'COUNT', count) or {}
  if #events == 0 or string.match(events[1][1], '%d+$') ~= text(at + 1) or not is_fresh(events[1][2]) then
    return nil
  end
  return events
end

local found = {}
local function add(event)
  found[#found + 1] = event[1]
  found[#found + 1] = payload_of(event[2])
end

if seen == '' then
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', math.min(limit, size)) or {}
  for i = #newest, 1, -1 do
    if is_fresh(newest[i][2]) then
      add(newest[i])
    end
  end
  return {epoch, offset, 1, found, offset, 1}
end

local events = {}
if is_valid and offset_seen < newest_offset then
  events = read_events(seen, offset_seen, limit)
end
if not is_valid or not events then
  -- A node continues with the first event of the new epoch if that is stored.
  local continues_at = offset
  if seen ~= epoch then
    local first = tonumber(redis.call('HGET', meta, epoch) or 0)
    if first < newest_offset and read_events(epoch, first, 1) then
      continues_at = text(first)
    end
  end
  return {epoch, offset, 0, found, continues_at, 1}
end
for _, event in ipairs(events) do
  add(event)
end
return {epoch, offset, 1, found, offset, seen == epoch and begun_by == generation and 1 or 0}
