-- Reads the state of a room, and compares it with a node's position. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; TTL of the meta in ms, how much longer it may live in ms,
--   PUBLISH or SPUBLISH; epoch and offset of the newest event that the node has delivered or acknowledged, or '' and ''.
-- Returns the epoch and the newest offset, or nothing if the room has no events.

local meta, stream = KEYS[1], KEYS[2]
if ARGV[6] ~= '' then
  local _, is_loss = compare(meta, ARGV[1], ARGV[6], tonumber(ARGV[7]), true, 0)
  if is_loss then
    record_loss(meta, stream, ARGV[6], ARGV[5])
  end
end
local epoch, offset = read_room(meta, '')
if not epoch then
  return false
end
extend_room(meta, ARGV[3], ARGV[4])
return {epoch, offset}
