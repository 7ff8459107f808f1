-- Takes a turn, or extends it. KEYS: the turn. ARGV: the holder, and how long the turn lasts, in ms.
-- Returns 0 if the holder has the turn now, otherwise how long the current one lasts, in ms, at least 1.

local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 0
end
return math.max(redis.call('PTTL', KEYS[1]), 1)
