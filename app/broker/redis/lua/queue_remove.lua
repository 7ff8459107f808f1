-- Removes entries. ARGV: the limit of dead letters, 0 if the entries were processed; the reason; the id, the length of
-- the payload and the payload of each entry. Without a limit, the payloads are ''.

local freed, limit = 0, tonumber(ARGV[1])
for i = 3, #ARGV, 3 do
  local length = remove(ARGV[i], ARGV[i + 1])
  freed = freed + length
  if limit > 0 and length > 0 then
    redis.call('XADD', dead, 'MAXLEN', limit, '*', 'p', ARGV[i + 2], 'r', ARGV[2])
  end
end
if freed > 0 then
  set_bytes(bytes() - freed)
end
if limit > 0 then
  redis.call('PEXPIRE', dead, TTL)
end
