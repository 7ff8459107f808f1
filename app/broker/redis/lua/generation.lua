-- Returns for how many ms nodes have used this generation of the server. Appended to server_time.lua.
-- KEYS: the generation that was used last, a hash: generation g, and the time t in ms of its first use.
-- ARGV: generation, how often this call was sent before; TTL of the key in ms.

local known = redis.call('HMGET', KEYS[1], 'g', 't')
if known[1] ~= ARGV[1] then
  known[2] = string.format('%.0f', now)
  redis.call('HSET', KEYS[1], 'g', ARGV[1], 't', known[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return now - known[2]
