-- Reads the state of a room. Appended to room.lua. KEYS: meta, stream.
-- ARGV: run_id, how often this call was sent before; TTL of the meta in ms; '1' to create the room if it does not exist.
-- Returns the epoch and the newest offset, or nothing if the room does not exist.

local epoch, offset = open_room(KEYS[1], KEYS[2], ARGV[1], ARGV[4] == '1')
if not epoch then
  return false
end
extend_room(KEYS[1], ARGV[3])
return {epoch, offset}
