"""The catalogue's Lua scripts: what must happen as one.

Keys are built inside the scripts from the prefix in ARGV[1], so they need a Redis that is not a cluster.
"""

_COMMON = """
local P = ARGV[1]
local function emit(kind, id, level, detail)
  -- A crash may take the last events, and their numbers are then given out again: only the time tells them apart.
  local time = redis.call('TIME')
  local seq = string.format('%.0f-0', redis.call('INCR', P .. 'events:seq'))
  redis.call('XADD', P .. 'events', 'MAXLEN', '~', '100000', seq,
             'kind', kind, 'id', id, 'level', level, 'detail', detail, 'at', time[1] .. '.' .. time[2])
end
local function leave_partition(id, partition)
  redis.call('SREM', P .. 'partition:' .. partition, id)
  if redis.call('EXISTS', P .. 'partition:' .. partition) == 0 then
    redis.call('SREM', P .. 'partitions', partition)
  end
end
local function forget(id)
  local key = P .. 'entry:' .. id
  local f = redis.call('HMGET', key, 'tenant', 'partition')
  redis.call('ZREM', P .. 'entries', id)
  if f[1] then redis.call('ZREM', P .. 'tenant:' .. f[1], id) end
  if f[2] then leave_partition(id, f[2]) end
  redis.call('DEL', key, P .. 'states:' .. id)
  emit('forget', id, '', '')
end
local function settle(id)
  -- An entry with neither a state nor a picture is of no use to anybody.
  local key = P .. 'entry:' .. id
  if redis.call('HLEN', P .. 'states:' .. id) > 0 then return end
  local f = redis.call('HMGET', key, 'partition', 'image_bytes')
  if f[1] then leave_partition(id, f[1]) end
  if f[2] == false or f[2] == '0' then forget(id) end
end
local function drop_state(id, level, reason)
  local key = P .. 'states:' .. id
  local raw = redis.call('HGET', key, level)
  if not raw then return 0 end
  local state = cjson.decode(raw)
  redis.call('HDEL', key, level, level .. ':u', level .. ':l')
  redis.call('ZREM', P .. 'order', state.member)
  redis.call('HINCRBY', P .. 'totals', 'state_bytes', -state.nbytes)
  redis.call('HINCRBY', P .. 'evictions', reason, 1)
  emit('evict', id, level, reason)
  settle(id)
  return 1
end
local function drop_image(id, reason)
  local key = P .. 'entry:' .. id
  local f = redis.call('HMGET', key, 'image_bytes', 'exact_key')
  if f[1] == false or f[1] == '0' then return 0 end
  redis.call('HSET', key, 'image_bytes', '0')
  redis.call('ZREM', P .. 'images', id)
  redis.call('HINCRBY', P .. 'totals', 'image_bytes', -tonumber(f[1]))
  redis.call('HINCRBY', P .. 'evictions', reason, 1)
  if f[2] and redis.call('GET', P .. 'exact:' .. f[2]) == id then redis.call('DEL', P .. 'exact:' .. f[2]) end
  emit('evict', id, 'image', reason)
  settle(id)
  return 1
end
"""

OPEN = """
local P, store, base, floor = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
redis.call('SET', P .. 'store', store, 'NX')
local next_id = tonumber(redis.call('GET', P .. 'next') or '0')
if next_id < floor then redis.call('SET', P .. 'next', base) end
redis.call('INCRBY', P .. 'next', ARGV[5])
return redis.call('GET', P .. 'store')
"""
"""ARGV: prefix, new store id, first entry id, floor of all entry ids, gap. Returns the store's id."""

COMMIT = (
    _COMMON
    + """
local id, partition, tenant, exact, created, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local image_bytes, n_states = ARGV[8], tonumber(ARGV[9])
local key = P .. 'entry:' .. id
if redis.call('EXISTS', key) == 1 then return 0 end
local at = 10
for _ = 1, n_states do
  local level, record, score = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local state = cjson.decode(record)
  redis.call('HSET', P .. 'states:' .. id, level, record, level .. ':u', '0', level .. ':l', now)
  redis.call('ZADD', P .. 'order', score, state.member)
  redis.call('HINCRBY', P .. 'totals', 'state_bytes', state.nbytes)
  at = at + 3
end
for i = at, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', P .. 'entries', created, id)
redis.call('ZADD', P .. 'tenant:' .. tenant, created, id)
if image_bytes ~= '0' then
  redis.call('SET', P .. 'exact:' .. exact, id)
  redis.call('ZADD', P .. 'images', now, id)
  redis.call('HINCRBY', P .. 'totals', 'image_bytes', image_bytes)
end
if n_states > 0 then
  redis.call('SADD', P .. 'partition:' .. partition, id)
  redis.call('SADD', P .. 'partitions', partition)
end
emit('add', id, '', partition)
return 1
"""
)
"""ARGV: prefix, id, partition, tenant, exact key, created, now, image bytes, number of states, then (level,
record, score) per state, then the entry's fields and values. Returns 0 when the id is taken."""

TOUCH = (
    _COMMON
    + """
local id, level = ARGV[2], ARGV[3]
local key = P .. 'states:' .. id
local raw = redis.call('HGET', key, level)
if not raw then return 0 end
local now = redis.call('INCR', P .. 'clock')
redis.call('HINCRBY', key, level .. ':u', 1)
redis.call('HSET', key, level .. ':l', string.format('%.0f', now))
redis.call('ZADD', P .. 'order', 'XX', string.format('%.0f', now), cjson.decode(raw).member)
redis.call('HINCRBY', P .. 'entry:' .. id, 'uses', 1)
emit('touch', id, level, '')
return 1
"""
)
"""ARGV: prefix, id, level. Does nothing when the state is gone."""

TOUCH_IMAGE = (
    _COMMON
    + """
local id = ARGV[2]
if redis.call('ZSCORE', P .. 'images', id) == false then return 0 end
redis.call('ZADD', P .. 'images', 'XX', redis.call('INCR', P .. 'clock'), id)
redis.call('HINCRBY', P .. 'entry:' .. id, 'uses', 1)
emit('touch', id, 'image', '')
return 1
"""
)
"""ARGV: prefix, id."""

DROP_STATE = (
    _COMMON
    + """
local dropped = drop_state(ARGV[2], ARGV[3], ARGV[4])
return {dropped, redis.call('HLEN', P .. 'states:' .. ARGV[2])}
"""
)
"""ARGV: prefix, id, level, reason. Returns (1 if it was there, fields of states left)."""

DROP_IMAGE = _COMMON + "return drop_image(ARGV[2], ARGV[3])"
"""ARGV: prefix, id, reason. Returns 1 if it was there."""

CLEAR_ENTRY = (
    _COMMON
    + """
local id = ARGV[2]
if redis.call('EXISTS', P .. 'entry:' .. id) == 0 then
  redis.call('ZREM', P .. 'entries', id)
  return 0
end
for _, level in ipairs(redis.call('HKEYS', P .. 'states:' .. id)) do
  if not string.find(level, ':', 1, true) then drop_state(id, level, 'cleared') end
end
drop_image(id, 'cleared')
if redis.call('EXISTS', P .. 'entry:' .. id) == 1 then forget(id) end
return 1
"""
)
"""ARGV: prefix, id. Returns 1 if the entry was there."""

FIND_EXACT = """
local P = ARGV[1]
local id = redis.call('GET', P .. 'exact:' .. ARGV[2])
if not id then return false end
local f = redis.call('HMGET', P .. 'entry:' .. id,
                     'prompt', 'exact_key', 'image_bytes', 'image_width', 'image_height', 'image_sha256')
return {id, unpack(f)}
"""
"""ARGV: prefix, exact key. Returns the entry's id and what its picture needs, or nothing."""

CANDIDATES = """
local P, partition = ARGV[1], ARGV[2]
local out = {}
for i = 3, #ARGV do
  local f = redis.call('HMGET', P .. 'entry:' .. ARGV[i], 'partition', 'prompt', 'embedding')
  if f[1] == partition then
    local row, states = {ARGV[i], f[2], f[3]}, redis.call('HGETALL', P .. 'states:' .. ARGV[i])
    for j = 1, #states, 2 do
      if not string.find(states[j], ':', 1, true) then row[#row + 1] = states[j + 1] end
    end
    if #row > 3 then out[#out + 1] = row end
  end
end
return out
"""
"""ARGV: prefix, partition, then entry ids. Returns (id, prompt, embedding, state records...) of those entries of
the partition that hold a state, in the order given."""
