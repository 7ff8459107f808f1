-- Renews a node's lease in a room, if it has one there. Returns its standing before, users of dead nodes and their
-- names, and how many users there are now.

local own = standing()
if own == 0 then
  return {own, {}, 0}
end
local left = reap(own)
redis.call('ZADD', nodes, now + lease, node)
expire()
return {own, left, redis.call('HLEN', users)}
