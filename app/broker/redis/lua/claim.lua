-- Begins what a key stands for. KEYS: the claim. ARGV: its ms. Returns 1 if it is the caller's to do, else what is kept.

local known = redis.call('GET', KEYS[1])
if known then
  return known
end
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return 1
