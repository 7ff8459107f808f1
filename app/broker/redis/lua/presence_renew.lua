-- Renews a node's lease in a room, if it has one there.
-- Returns the state of the lease before, the removed users of dead nodes and their names, and the number of users.

local own_state = own_lease_state()
if own_state == 0 then
  return {own_state, {}, 0}
end
local removed = remove_dead_nodes(own_state)
redis.call('ZADD', nodes, now + lease, node)
set_expiry()
return {own_state, removed, redis.call('HLEN', users)}
