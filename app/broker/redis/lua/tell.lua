-- Sends a message to the own channel of a node, with a signature (see room.lua).
-- KEYS: the channel. ARGV: generation, how often this call was sent before; the message.
-- Returns how many nodes receive it: 1, or 0 if the node is not connected.

local signature = string.sub(redis.sha1hex(ARGV[1] .. KEYS[1] .. ARGV[3]), 1, 16)
return redis.call('PUBLISH', KEYS[1], ARGV[3] .. signature)
