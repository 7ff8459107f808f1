-- Claims a key. KEYS: the claim. ARGV: how long the claim lasts, in ms.
-- Returns 1 if the caller has the claim now, otherwise the stored value: the answer, or '' while it is pending.

local known = redis.call('GET', KEYS[1])
if known then
  return known
end
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return 1
