-- Returns the number of messages up to an event. Appended to positions.lua. KEYS: meta, stream.
-- ARGV: generation, how often this call was sent before; epoch and offset of the event.
-- Returns nothing if the room has no valid event with this id. It need not be stored any more.

local seen, offset_seen = ARGV[3], tonumber(ARGV[4])
local epoch, _, _, _, _, total = read_room(KEYS[1], seen)
if not epoch or offset_seen == 0 or not compare(KEYS[1], ARGV[1], seen, offset_seen, false, 0) then
  return false
end
return count_until(KEYS[2], seen .. '-' .. ARGV[4], tonumber(total or 0))
