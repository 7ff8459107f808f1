-- Does the work of nodes that have died, in a room that is followed: removes them, announces the users that are due, and
-- claims changes. Returns when the next announcement is due, and 1 if the room must be swept again, otherwise 0.

remove_dead_nodes(own_lease_state())
local next_due = announce_due()
claim_expired()
local is_used = redis.call('HLEN', users) > 0 or redis.call('EXISTS', changes) == 1 or next_due >= 0
return with_claimed({next_due, is_used and 1 or 0})
