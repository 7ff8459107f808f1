-- Reads the next entries. ARGV: the node; the id after which entries are read that were read before and not removed, or
--   '>' for those that were never read; the most entries; the bytes after which no more are read.
-- All nodes use one consumer of the group, because only the node with the lease reads.
-- Returns the time in ms, and the ids and payloads, alternating; false if the node does not have the lease.

if redis.call('GET', lease) ~= ARGV[1] then
  return false
end

local after, limit, max_bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, total = {}, 0

local function read()
  local count = math.min(10, limit - #found / 2)
  return redis.pcall('XREADGROUP', 'GROUP', GROUP, 'holder', 'COUNT', count, 'STREAMS', entries, after)
end

while #found < 2 * limit and total < max_bytes do
  local reply = read()
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then
      return reply
    end
    redis.call('XGROUP', 'CREATE', entries, GROUP, 0, 'MKSTREAM')
    redis.call('PEXPIRE', entries, TTL)
    reply = read()
  end
  local page = reply and reply[1] and reply[1][2] or {}
  if #page == 0 then
    break
  end
  for _, entry in ipairs(page) do
    if entry[2] then
      found[#found + 1] = entry[1]
      found[#found + 1] = entry[2][2]
      total = total + #entry[2][2]
    else
      redis.call('XACK', entries, GROUP, entry[1])  -- it was dropped after it was read
    end
    after = after ~= '>' and entry[1] or after
  end
end
return {now, found}
