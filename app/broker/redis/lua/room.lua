-- The state of a room: a hash with its epoch e, the offset of its newest event o, the run_id r of the server that gave the
-- epoch, and the time x when its end was put off last. A server with another run_id was started or promoted since, and
-- may have lost events that were acknowledged; their ids would be given twice. So there a room begins a new epoch.

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- An epoch is the time it began in microseconds, or more if that would not be more than every epoch the stream knows,
-- or if this script has begun one at the same time: no two rooms have the same.
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

-- Returns epoch and offset, both as text, and x as a number; nil if there is no such room and none is to be made.
local function open_room(meta, stream, run, make)
  local state = redis.call('HMGET', meta, 'e', 'o', 'r', 'x')
  if state[3] == run then
    return state[1], state[2], tonumber(state[4])
  end
  if not state[1] and not make then
    return nil
  end
  local epoch = new_epoch(state[1], stream)
  redis.call('HSET', meta, 'e', epoch, 'o', '0', 'r', run, 'x', '0')
  return epoch, '0', 0
end

-- Keeps a room that somebody looks at, as publishing does, which puts the end off now and then by a quarter more: with
-- less than that an event which comes before the next time would outlive its room.
local function keep_room(meta, life)
  redis.call('PEXPIRE', meta, text(life + life / 4))
end
