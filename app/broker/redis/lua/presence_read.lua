-- Reads who is in a room. ARGV, after those of presence.lua: '1' to return the users, '' to count them only.
-- Returns when the next announcement is due, the number of users, and the users and their values, alternating.

remove_dead_nodes(own_lease_state())
return {announce_due(), redis.call('HLEN', users), ARGV[9] == '1' and redis.call('HGETALL', users) or {}}
