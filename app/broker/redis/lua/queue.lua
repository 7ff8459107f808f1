-- Shared by the scripts of a queue. Appended to server_time.lua.
-- KEYS: the entries (a stream with a consumer group); the lease (a string: the node); the number of bytes of all
--   payloads (a string); the dead letters (a stream); the states (a hash).

local entries, lease, size, dead, states = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local GROUP = 'nodes'
-- A queue that no node uses any more expires, in ms: 30 days.
local TTL = 2592000000

local function bytes()
  return tonumber(redis.call('GET', size) or 0)
end

local function set_bytes(count)
  redis.call('SET', size, math.max(count, 0), 'PX', TTL)
end

-- Removes an entry whose payload has `length` bytes. Returns the number of bytes that this frees.
local function remove(id, length)
  redis.call('XACK', entries, GROUP, id)
  return redis.call('XDEL', entries, id) == 1 and tonumber(length) or 0
end

-- Appends payloads, and drops the oldest entries above the limits. Returns how many were dropped.
local function append(payloads, max_entries, max_bytes)
  local total, dropped = bytes(), 0
  for _, payload in ipairs(payloads) do
    redis.call('XADD', entries, '*', 'p', payload)
    total = total + #payload
  end
  local count = redis.call('XLEN', entries)
  while count > 0 and (count > max_entries or total > max_bytes) do
    local oldest = redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
    total = total - remove(oldest[1], #oldest[2][2])
    count = count - 1
    dropped = dropped + 1
  end
  set_bytes(count > 0 and total or 0)
  redis.call('PEXPIRE', entries, TTL)
  return dropped
end
