-- Reads the state of a room, and compares it with a node's position. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; TTL of the meta in ms, how much longer it may live in ms,
--   PUBLISH or SPUBLISH; epoch and offset of the newest event that the node has delivered or acknowledged, '' and '' if
--   the room has had no events; the offset is 0 after a loss of all events.
-- Returns the epoch, the newest offset and the number of messages, or nothing if the room has no events.

local meta, stream, seen = KEYS[1], KEYS[2], ARGV[6]
if seen ~= '' then
  local is_valid, is_loss = compare(meta, ARGV[1], seen, tonumber(ARGV[7]), true, 0)
  if is_loss then
    record_loss(meta, stream, seen, ARGV[5])
  elseif is_valid and redis.call('EXISTS', meta) == 0 then
    -- The room has lost its events before, and had none since then. Restore that ids from before the loss are invalid.
    redis.call('HSET', meta, 'e', seen, 'o', '0', 'g', '', 'x', '0', 'l', seen)
  end
end
local epoch, offset, _, _, _, count = read_room(meta, '')
if not epoch then
  return false
end
extend_room(meta, ARGV[3], ARGV[4])
return {epoch, offset, count or '0'}
