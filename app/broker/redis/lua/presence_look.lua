-- Who is in a room. ARGV, after those of presence.lua: '1' to return the users, '' to count them only. Returns users of
-- dead nodes and their names, how many users there are, and the users and their values in turn.

local left = reap(standing())
return {left, redis.call('HLEN', users), ARGV[4] == '1' and redis.call('HGETALL', users) or {}}
