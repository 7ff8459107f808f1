-- Moves a user's mark in a room forward. KEYS: the user's marks, a hash: by room, the epoch and the offset of the event up
--   to which the user has read, the number of messages up to it, and the time in microseconds: '<epoch>-<offset> <count> <time>'.
-- ARGV: room, epoch, offset, count, TTL of the hash in ms, maximum number of rooms.
-- Returns the mark, which may be a newer one that the user had already.

local marks, room, epoch, offset = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local max_rooms = tonumber(ARGV[6])
local known = redis.call('HGET', marks, room)
if known then
  local known_epoch, known_offset = string.match(known, '^(%d+)-(%d+) ')
  known_epoch, known_offset = tonumber(known_epoch), tonumber(known_offset)
  local is_newer = tonumber(epoch) > known_epoch or (tonumber(epoch) == known_epoch and tonumber(offset) > known_offset)
  if not is_newer then
    return known
  end
end
local time = redis.call('TIME')
local mark = string.format('%s-%s %s %.0f', epoch, offset, ARGV[4], time[1] * 1000000 + time[2])
redis.call('HSET', marks, room, mark)
redis.call('PEXPIRE', marks, ARGV[5])

-- Beyond the maximum, the oldest eighth is dropped, so that this is rare.
if not known and redis.call('HLEN', marks) > max_rooms then
  local fields, by_time = redis.call('HGETALL', marks), {}
  for i = 1, #fields, 2 do
    by_time[#by_time + 1] = {tonumber(string.match(fields[i + 1], '%d+$')), fields[i]}
  end
  table.sort(by_time, function(a, b) return a[1] < b[1] end)
  for i = 1, math.max(#by_time - math.floor(max_rooms * 7 / 8), 1) do
    if by_time[i][2] ~= room then
      redis.call('HDEL', marks, by_time[i][2])
    end
  end
end
return mark
