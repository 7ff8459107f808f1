-- Writes states. ARGV: the node; the number of states to set, their names and texts, alternating; the names to delete.
-- Returns 1, or 0 if the node does not have the lease.

if redis.call('GET', lease) ~= ARGV[1] then
  return 0
end
local set = 2 * tonumber(ARGV[2])
for i = 3, 2 + set, 2 do
  redis.call('HSET', states, ARGV[i], ARGV[i + 1])
end
for i = 3 + set, #ARGV do
  redis.call('HDEL', states, ARGV[i])
end
redis.call('PEXPIRE', states, TTL)
return 1
