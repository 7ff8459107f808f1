-- Shared by the scripts for a room's events.
-- The room's meta is a hash: its epoch e, the offset of its newest event o, the run_id r of the server that assigned the
-- epoch, and the time x at which the expiry was extended last. A server with another run_id was restarted or promoted
-- since then. It may have lost acknowledged events and would assign their ids again, so the room begins a new epoch.

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- An epoch is the time at which it began, in microseconds. It is increased if needed so that it is larger than every
-- epoch in the stream, and different from other epochs that this run of the script begins.
local begun = 0
local function new_epoch(old, stream)
  local time = redis.call('TIME')
  local epoch = math.max(time[1] * 1000000 + time[2] + begun, tonumber(old or 0) + 1)
  begun = begun + 1
  if redis.call('EXISTS', stream) == 1 then
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        epoch = math.max(epoch, tonumber(string.match(info[i + 1], '^%d+')) + 1)
      end
    end
  end
  return text(epoch)
end

-- Returns epoch and offset as text, and x as a number. Returns nil if the room does not exist and create is false.
local function open_room(meta, stream, run, create)
  local state = redis.call('HMGET', meta, 'e', 'o', 'r', 'x')
  if state[3] == run then
    return state[1], state[2], tonumber(state[4])
  end
  if not state[1] and not create then
    return nil
  end
  local epoch = new_epoch(state[1], stream)
  redis.call('HSET', meta, 'e', epoch, 'o', '0', 'r', run, 'x', '0')
  return epoch, '0', 0
end

-- Extends the expiry of a room's meta. Publishing extends it only after a quarter of the TTL, so a quarter is added:
-- otherwise an event that is published shortly before the next extension would outlive the meta.
local function extend_room(meta, ttl)
  redis.call('PEXPIRE', meta, text(ttl + ttl / 4))
end
