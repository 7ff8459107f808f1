-- Reads a page of a room's history. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; TTL of the meta in ms, how much longer it may live in ms,
--   PUBLISH or SPUBLISH; epoch and offset of the last event that the caller has, or '' and '' for the newest events;
--   '1' if the caller is a node, '' if it is a client; history size, TTL of its events in ms; of the page, the maximum
--   number of events and of bytes, and how many bytes an event counts in addition to its payload; with '' and '', the id
--   before which the page ends, or ''.
-- Returns the epoch and the newest offset; 1 if the history reaches back to the given event, otherwise 0; the events,
--   ids and payloads alternating, oldest first after a given event and otherwise newest first; the offset from which a
--   node continues in this epoch if it does not reach back; 1 if no report of another node can change that it reaches
--   back, otherwise 0; 1 if newest events were read and older ones are stored, otherwise 0; if the caller is a node, the
--   number of messages up to the last of the events.

local meta, stream = KEYS[1], KEYS[2]
local generation, room_ttl, seen, offset_seen = ARGV[1], tonumber(ARGV[3]), ARGV[6], tonumber(ARGV[7])
local is_node, size, ttl = ARGV[8] == '1', tonumber(ARGV[9]), tonumber(ARGV[10])
local limit, max_bytes, overhead, before = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), ARGV[14]
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

local epoch, offset, begun_by, _, _, total = read_room(meta, seen)
if not epoch then
  local is_final = (seen == '' or not is_valid) and 1 or 0
  return {text((now - 1) * 1000), '0', is_valid and 1 or 0, {}, '0', is_final, 0, 0}
end
total = tonumber(total or 0)
extend_room(meta, room_ttl, ARGV[4])
local newest_offset = tonumber(offset)

local function payload_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'p' then
      return fields[i + 1]
    end
  end
end

-- Returns true if the history still contains an event of the stream.
local function is_stored(event)
  return tonumber(string.match(event[1], '%d+$')) > newest_offset - size and tonumber(event[2][2]) > now - ttl
end

-- Returns the event after the id (after, at), or nil if it is not stored any more.
local function event_after(after, at)
  local event = redis.call('XRANGE', stream, after .. '-' .. text(at + 1), epoch .. '-' .. offset, 'COUNT', 1)[1]
  if event and string.match(event[1], '%d+$') == text(at + 1) and is_stored(event) then
    return event
  end
end

local found, bytes = {}, 0

-- Adds an event to the page; returns false if it does not fit.
local function add(event)
  local payload = payload_of(event[2])
  bytes = bytes + #payload + overhead
  if #found == limit * 2 or (bytes > max_bytes and #found > 0) then
    return false
  end
  found[#found + 1] = event[1]
  found[#found + 1] = payload
  return true
end

-- Adds the events that read(from, count) returns, beginning with the id from, while accepts returns true for them.
-- Returns 1 if a further event does not fit, otherwise 0. Reads a few at once, because the stream may contain events of
-- 100 KB, and a script blocks the server.
local PIECE = 8
local function add_range(read, from, accepts)
  local events, count
  repeat
    count = math.min(PIECE, limit - #found / 2 + 1)
    events = read(from, count)
    for _, event in ipairs(events) do
      if not accepts(event) then
        return 0
      end
      if not add(event) then
        return 1
      end
      from = '(' .. event[1]
    end
  until #events < count
  return 0
end

if seen == '' then
  local has_older = 0
  if before ~= '0-0' then
    has_older = add_range(function(from, count)
      return redis.call('XREVRANGE', stream, from, '-', 'COUNT', count)
    end, before == '' and '+' or '(' .. before, is_stored)
  end
  return {epoch, offset, 1, found, offset, 1, has_older, 0}
end

local first
if is_valid and offset_seen < newest_offset then
  first = event_after(seen, offset_seen)
end
if not is_valid or (offset_seen < newest_offset and not first) then
  -- A node continues with the first event of the new epoch if that is stored.
  local continues_at = offset
  if seen ~= epoch then
    local begins_after = tonumber(redis.call('HGET', meta, epoch) or 0)
    if begins_after < newest_offset and event_after(epoch, begins_after) then
      continues_at = text(begins_after)
    end
  end
  return {epoch, offset, 0, found, continues_at, 1, 0, total}
end
if first then
  add(first)
  add_range(function(from, count)
    return redis.call('XRANGE', stream, from, epoch .. '-' .. offset, 'COUNT', count)
  end, '(' .. first[1], function() return true end)
end
local last = found[#found - 1]
local count = is_node and last and last ~= epoch .. '-' .. offset and count_until(stream, last, total) or total
return {epoch, offset, 1, found, offset, seen == epoch and begun_by == generation and 1 or 0, 0, count}
