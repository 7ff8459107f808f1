-- Registers followed rooms of a node. Other nodes sweep a room when its registration has ended.
-- Appended to server_time.lua. KEYS: the rooms (a zset: room -> end of the registration in ms).
-- ARGV: how long the registration lasts, in ms, 0 to let other nodes sweep the rooms now; the rooms.

for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], 2 * 24 * 3600000)
