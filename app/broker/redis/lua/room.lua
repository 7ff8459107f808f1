-- Shared by the scripts for a room's events.
-- The room's meta is a hash:
--   e: the current epoch; o: the offset of the newest event; offsets count on over all epochs.
--   g: the generation of the server that began the epoch (see handshake.py). A server of another generation was
--     restarted or promoted since then. It may lack acknowledged events and would assign their ids again, so its first
--     event in the room begins a new epoch.
--   x: when the expiry was extended last, in ms.
--   i: the first id of the current segment; b: the bytes of its payloads. A stream has this segment and the one before,
--     each with up to half of the bytes that the stream may have.
--   c: the number of messages that the room has had; absent if none. Messages are the events that count as unread.
--   l: the oldest valid epoch, if events were lost. A resume from an id of an earlier epoch may miss them.
--   <epoch>: the offset before the first event of this epoch, which is where the epoch before it ended. Kept for the
--     last valid epochs; absent if the room has had only one.
--   c<epoch>: the number of messages before this epoch; absent if none.
--   k: the epochs that were kept before the last loss: for each, the epoch, the offset and the number of messages before
--     its first event. Only for marks, and only if the room has had messages.
-- An event in the stream has the fields t, its time in ms, p, its payload, and n, the number of events before it that are
-- not messages. The latter is the same for many events in a row. It is absent if there is no message before the event.
-- A room without events has no meta. Its id is the server's time in microseconds and the offset 0.

local KEPT_EPOCHS = 16

-- Returns the number of messages before an event of the stream; total is the number of all messages.
local function messages_before(event, total)
  local fields = event[2]
  if fields[5] ~= 'n' then
    return 0
  end
  return math.max(math.min(tonumber(string.match(event[1], '%d+$')) - 1 - fields[6], total), 0)
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Returns the generation of this server. The caller's generation is older if its connection survived a promotion.
local own_generation
local function read_generation()
  if not own_generation then
    local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    own_generation = string.sub(run_id, 1, 8) .. string.sub(replid, 1, 8)
  end
  return own_generation
end

-- Announces events in a room. The head is the epoch, the offset of the first event, the number of messages in the room
-- including these events, and the length of each payload.
-- A signature follows the payloads. Its secret is the generation, which clients do not see and pub/sub does not carry, so
-- that nodes recognise what a script has not sent, or what did not arrive whole. See Receiver.on_message.
local function send_announcement(command, channel, generation, head, payloads)
  local signature = string.sub(redis.sha1hex(generation .. channel .. head), 1, 16)
  redis.call(command, channel, head .. '\n' .. payloads .. signature)
end

-- An epoch is the time at which it began, in microseconds. It is increased if needed so that it is larger than the epoch
-- at_least and every epoch in the stream, and different from other epochs that this run of the script begins.
local begun = 0
local function new_epoch(at_least, stream)
  local time = redis.call('TIME')
  local epoch = math.max(time[1] * 1000000 + time[2] + begun, at_least + 1)
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

-- Returns the kept epochs in order, each as {epoch, offset before its first event}. The last one is the current epoch.
local function read_epochs(meta, current)
  local fields, epochs = redis.call('HGETALL', meta), {}
  for i = 1, #fields, 2 do
    local epoch = tonumber(fields[i])
    if epoch then
      epochs[#epochs + 1] = {epoch, tonumber(fields[i + 1])}
    end
  end
  table.sort(epochs, function(a, b) return a[1] < b[1] end)
  if #epochs == 0 or epochs[#epochs][1] ~= current then
    epochs[#epochs + 1] = {current, 0}
  end
  return epochs
end

-- Removes an epoch from those that are kept.
local function forget_epoch(meta, epoch)
  redis.call('HDEL', meta, text(epoch), 'c' .. text(epoch))
end

-- Records that the epoch begins with a room's next event. The count is nil or false if the room has had no messages.
local function set_epoch(meta, epoch, offset, count)
  redis.call('HSET', meta, 'e', epoch, 'g', read_generation(), 'x', '0', epoch, offset)
  if count then
    redis.call('HSET', meta, 'c' .. epoch, count)
  end
end

-- Begins the next epoch of a room and returns it.
local function begin_epoch(meta, stream, epoch, offset, count)
  local epochs = read_epochs(meta, tonumber(epoch))
  if #epochs == 1 then
    redis.call('HSET', meta, epoch, text(epochs[1][2]))
  elseif #epochs >= KEPT_EPOCHS then
    forget_epoch(meta, epochs[1][1])
  end
  local next_epoch = new_epoch(tonumber(epoch), stream)
  set_epoch(meta, next_epoch, offset, count)
  return next_epoch
end

-- Returns epoch and offset as text, and x, b and c as numbers. A room without meta begins its first epoch.
local function open_room(meta, stream, generation)
  local state = redis.call('HMGET', meta, 'e', 'o', 'g', 'x', 'b', 'c')
  local bytes, count = tonumber(state[5] or 0), tonumber(state[6] or 0)
  if state[3] == generation then
    return state[1], state[2], tonumber(state[4]), bytes, count
  end
  if not state[1] then
    local epoch = new_epoch(0, stream)
    redis.call('HSET', meta, 'e', epoch, 'o', '0', 'g', generation, 'x', '0')
    return epoch, '0', 0, 0, 0
  end
  if state[3] == read_generation() then
    return state[1], state[2], tonumber(state[4]), bytes, count
  end
  return begin_epoch(meta, stream, state[1], state[2], state[6]), state[2], 0, bytes, count
end
