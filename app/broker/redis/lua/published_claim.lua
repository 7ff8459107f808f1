-- Claims up to 100 published events whose node has died before it has processed them. Appended to server_time.lua.
-- KEYS: events and claims (see publish.lua). ARGV: the length of a claim in ms.
-- Returns 1 if there are other events, otherwise 0; and of each claimed event the id and the payload, in order.

local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  local payload = redis.call('HGET', KEYS[1], id)
  if payload then
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[1]), id)
    found[#found + 1] = {id, payload}
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return {redis.call('EXISTS', KEYS[1]), found}
