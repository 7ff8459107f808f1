-- Reads who is in a room. ARGV, after those of presence.lua: '1' to return the users, '' to count them only.
-- Returns when the next announcement is due, the number of users, and the users and their values, alternating.

remove_dead_nodes(own_lease_state())
local has_announced, next_due = pcall(announce_due)  -- members can be read while the server has no memory
local found = ARGV[9] == '1' and redis.call('HGETALL', users) or {}
return with_claimed({has_announced and next_due or 0, redis.call('HLEN', users), found})
