-- Reads who is in a room. ARGV, after those of presence.lua: '1' to return the users, '' to count them only.
-- Returns the removed users of dead nodes and their names, the number of users, and the users and their values,
--   alternating.

local removed = remove_dead_nodes(own_lease_state())
return {removed, redis.call('HLEN', users), ARGV[4] == '1' and redis.call('HGETALL', users) or {}}
