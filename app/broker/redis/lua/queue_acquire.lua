-- Takes or extends the lease, or gives it back. ARGV: the node; the length of the lease in ms, 0 to give it back.
-- Returns 0 if another node has it, 1 if the node had it before, 2 if it takes it now.

local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', lease)
  return 1
end
redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
for _, key in ipairs({entries, size, dead, states}) do
  redis.call('PEXPIRE', key, TTL)
end
return holder and 1 or 2
