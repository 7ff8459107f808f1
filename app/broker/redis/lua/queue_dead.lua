-- Deletes dead letters. ARGV: the limits of entries and of bytes if they are appended as entries again, otherwise 0 and
-- 0; the ids. Returns how many there were, and how many entries were dropped.

local payloads, count = {}, 0
for i = 3, #ARGV do
  local letter = redis.call('XRANGE', dead, ARGV[i], ARGV[i])[1]
  if letter then
    count = count + 1
    payloads[count] = letter[2][2]
    redis.call('XDEL', dead, ARGV[i])
  end
end
local dropped = 0
if tonumber(ARGV[1]) > 0 and count > 0 then
  dropped = append(payloads, tonumber(ARGV[1]), tonumber(ARGV[2]))
end
return {count, dropped}
