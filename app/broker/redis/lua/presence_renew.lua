-- Renews a node's lease in a room, if it has one there.
-- Returns the state of the lease before, when the next announcement is due, and the number of users.

local own_state = own_lease_state()
if own_state == 0 then
  return with_claimed({own_state, -1, 0})
end
remove_dead_nodes(own_state)
redis.call('ZADD', nodes, now + lease, node)
set_expiry(true)
claim_expired()
return with_claimed({own_state, announce_due(), redis.call('HLEN', users)})
