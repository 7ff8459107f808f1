-- Returns the numbers of entries and of bytes, the age of the oldest entry in ms, the number of dead letters, and the
-- node with the lease or false.

local oldest = redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
local age = 0
if oldest then
  age = math.max(now - tonumber(string.match(oldest[1], '^%d+')), 0)
end
return {redis.call('XLEN', entries), bytes(), age, redis.call('XLEN', dead), redis.call('GET', lease)}
