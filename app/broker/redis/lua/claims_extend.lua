-- Extends the claims of a node, or gives them back. Appended to server_time.lua.
-- KEYS: claims (a zset: entry -> end of the claim in ms). ARGV: the length of the claims in ms, 0 to give them back; the
--   entries. Those without a claim are skipped.

for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[i])
end
