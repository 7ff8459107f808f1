-- Where a room stands. KEYS: meta, stream. ARGV: run_id, how often this was sent before; the meta's ms; '1' to begin
-- the room if it is not there. Returns epoch and newest offset, or nothing.

local epoch, offset = open_room(KEYS[1], KEYS[2], ARGV[1], ARGV[4] == '1')
if not epoch then
  return false
end
keep_room(KEYS[1], ARGV[3])
return {epoch, offset}
