-- Removes rooms in which nothing is left to sweep, unless a node has registered them meanwhile.
-- KEYS: the rooms (see followed_register.lua). ARGV: when the registrations end; the rooms.

for i = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) == ARGV[1] then
    redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
