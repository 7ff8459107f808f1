-- Removes published events that a node has processed. KEYS: events and claims (see publish.lua). ARGV: the ids.

redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('HDEL', KEYS[1], unpack(ARGV))
