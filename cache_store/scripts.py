"""The catalogue's Lua scripts: what must happen as one.

Keys are built inside the scripts from the prefix in ARGV[1], so they need a Redis that is not a cluster.

The one clock of lifetimes and leases is the catalogue's: the time of the Redis host plus `clock:offset`, which takes
back the jumps that host's clock makes while a service watches it (see `cache_store.expiry`).
"""

MOST_LEASE_SECONDS = 60
"""A lease that claims to last longer is not believed: a clock has been set back since."""

CLOCK = """
local P = ARGV[1]
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000 + tonumber(redis.call('GET', P .. 'clock:offset') or '0')
end
local function seconds_left(id, ttl, now)
  -- Records of before lifetimes have no 'born'.
  local f = redis.call('HMGET', P .. 'entry:' .. id, 'born', 'created')
  local born = tonumber(f[1] or f[2] or '')
  return born and born + ttl - now or 0
end
local function seconds_old(id, now)
  local f = redis.call('HMGET', P .. 'entry:' .. id, 'born', 'created')
  return math.max(0, now - (tonumber(f[1] or f[2] or '') or 0))
end
"""

COMMON = (
    CLOCK
    + """
local function emit(kind, id, level, detail)
  -- A crash may take the last events, and their numbers are then given out again: only the time tells them apart.
  local time = redis.call('TIME')
  local seq = string.format('%.0f-0', redis.call('INCR', P .. 'events:seq'))
  redis.call('XADD', P .. 'events', 'MAXLEN', '~', '100000', seq,
             'kind', kind, 'id', id, 'level', level, 'detail', detail, 'at', time[1] .. '.' .. time[2])
end
local function decoded(raw)
  -- A record that damage has made unreadable says nothing; what follows from it is left to the repair.
  local ok, state = pcall(cjson.decode, raw)
  return ok and type(state) == 'table' and state or {}
end
local function whole_number(value)
  value = tonumber(value)
  return value and value % 1 == 0 and math.abs(value) < 2 ^ 53 and value or 0
end
local function count_author(id, partition, by)
  -- Of public entries: how many each tenant has in the partition, and how many of each text.
  local f = redis.call('HMGET', P .. 'entry:' .. id, 'tenant', 'text')
  if not (f[1] and f[2]) then return end
  for _, key in ipairs({P .. 'authors:' .. partition, P .. 'texts:' .. partition .. ':' .. f[2]}) do
    if redis.call('HINCRBY', key, f[1], by) <= 0 then redis.call('HDEL', key, f[1]) end
  end
end
local function join_partition(id, partition)
  if redis.call('SADD', P .. 'partition:' .. partition, id) == 1 then count_author(id, partition, 1) end
  redis.call('SADD', P .. 'partitions', partition)
end
local function leave_partition(id, partition)
  if redis.call('SREM', P .. 'partition:' .. partition, id) == 1 then count_author(id, partition, -1) end
  if redis.call('EXISTS', P .. 'partition:' .. partition) == 0 then
    redis.call('SREM', P .. 'partitions', partition)
  end
end
local function forget(id)
  local key = P .. 'entry:' .. id
  local f = redis.call('HMGET', key, 'tenant', 'partition', 'user')
  redis.call('ZREM', P .. 'entries', id)
  redis.call('ZREM', P .. 'leases', id)
  if f[1] then redis.call('ZREM', P .. 'tenant:' .. f[1], id) end
  if f[2] then leave_partition(id, f[2]) end
  if f[3] then redis.call('SREM', P .. 'user:' .. f[3], id) end
  redis.call('DEL', key, P .. 'states:' .. id, P .. 'credited:' .. id)
  emit('forget', id, '', '')
end
local function credited(id, part, by)
  -- What a public entry is worth is said by others: its author's uses earn it nothing, another tenant's count once.
  local f = redis.call('HMGET', P .. 'entry:' .. id, 'text', 'tenant')
  if not f[1] then return true, true end
  if by == '' or by == f[2] then return false, true end
  return redis.call('SADD', P .. 'credited:' .. id, part .. ':' .. by) == 1, false
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
  local state = decoded(raw)
  redis.call('HDEL', key, level, level .. ':u', level .. ':l')
  if type(state.member) == 'string' then redis.call('ZREM', P .. 'order', state.member) end
  redis.call('HINCRBY', P .. 'totals', 'state_bytes', string.format('%.0f', 0 - whole_number(state.nbytes)))
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
  redis.call('HINCRBY', P .. 'totals', 'image_bytes', string.format('%.0f', 0 - whole_number(f[1])))
  redis.call('HINCRBY', P .. 'evictions', reason, 1)
  if f[2] and redis.call('GET', P .. 'exact:' .. f[2]) == id then redis.call('DEL', P .. 'exact:' .. f[2]) end
  emit('evict', id, 'image', reason)
  settle(id)
  return 1
end
"""
)

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
    COMMON
    + """
local id, partition, tenant, exact, user, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
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
local t = redis.call('TIME')
local created, born = string.format('%.6f', t[1] + t[2] / 1000000), string.format('%.6f', clock())
redis.call('HSET', key, 'created', created, 'born', born)
redis.call('ZADD', P .. 'entries', born, id)
redis.call('ZADD', P .. 'tenant:' .. tenant, created, id)
if user ~= '' then redis.call('SADD', P .. 'user:' .. user, id) end
if image_bytes ~= '0' then
  -- The picture remembered under this key before can no longer be found by it.
  local older = redis.call('GET', P .. 'exact:' .. exact)
  if older and redis.call('EXISTS', P .. 'entry:' .. older) == 1 then
    redis.call('HSET', P .. 'entry:' .. older, 'superseded', '1')
  end
  redis.call('SET', P .. 'exact:' .. exact, id)
  redis.call('ZADD', P .. 'images', now, id)
  redis.call('HINCRBY', P .. 'totals', 'image_bytes', image_bytes)
end
if n_states > 0 then
  join_partition(id, partition)
end
emit('add', id, '', partition)
return 1
"""
)
"""ARGV: prefix, id, partition, tenant, exact key, user digest or nothing, logical now, image bytes, number of states,
then (level, record, score) per state, then the entry's fields and values. Returns 0 when the id is taken."""

TOUCH = (
    COMMON
    + """
local id, level = ARGV[2], ARGV[3]
local key = P .. 'states:' .. id
local raw = redis.call('HGET', key, level)
if not raw then return 0 end
local counts, own = credited(id, level, ARGV[4])
-- Whether others use it is nothing its author may read.
if own then redis.call('HINCRBY', P .. 'entry:' .. id, 'uses', 1) end
if not counts then return 1 end
local now = redis.call('INCR', P .. 'clock')
redis.call('HINCRBY', key, level .. ':u', 1)
redis.call('HSET', key, level .. ':l', string.format('%.0f', now))
local member = decoded(raw).member
if type(member) == 'string' then redis.call('ZADD', P .. 'order', 'XX', string.format('%.0f', now), member) end
emit('touch', id, level, '')
return 1
"""
)
"""ARGV: prefix, id, level, tenant that used it. Does nothing when the state is gone."""

TOUCH_IMAGE = (
    COMMON
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
    COMMON
    + """
local leased = 0
if ARGV[5] == '1' then
  leased = tonumber(redis.call('ZSCORE', P .. 'leases', ARGV[2]) or '0') - clock()
  if leased > tonumber(ARGV[6]) then leased = 0 end
end
if leased <= 0 then
  leased = 0
  drop_state(ARGV[2], ARGV[3], ARGV[4])
end
-- A lease about to end must not read as none.
if leased > 0 then leased = math.max(leased, 0.001) end
return {string.format('%.3f', leased), redis.call('HLEN', P .. 'states:' .. ARGV[2])}
"""
)
"""ARGV: prefix, id, level, reason, 1 to leave leased ones alone, longest lease believed.

Returns (seconds of the lease that kept it, or 0; fields of states left)."""

DROP_IMAGE = COMMON + "return drop_image(ARGV[2], ARGV[3])"
"""ARGV: prefix, id, reason. Returns 1 if it was there."""

CLEAR_ENTRY = (
    COMMON
    + """
local id = ARGV[2]
if redis.call('EXISTS', P .. 'entry:' .. id) == 0 then
  redis.call('ZREM', P .. 'entries', id)
  return 0
end
for _, level in ipairs(redis.call('HKEYS', P .. 'states:' .. id)) do
  if not string.find(level, ':', 1, true) then drop_state(id, level, ARGV[3]) end
end
drop_image(id, ARGV[3])
if redis.call('EXISTS', P .. 'entry:' .. id) == 1 then forget(id) end
return 1
"""
)
"""ARGV: prefix, id, reason. Returns 1 if the entry was there."""

FIND_EXACT = (
    CLOCK
    + """
local id, ttl = redis.call('GET', P .. 'exact:' .. ARGV[2]), tonumber(ARGV[3])
if not id then return false end
if ttl > 0 and seconds_left(id, ttl, clock()) <= 0 then return false end
local f = redis.call('HMGET', P .. 'entry:' .. id,
                     'prompt', 'exact_key', 'image_bytes', 'image_width', 'image_height', 'image_sha256', 'safety',
                     'full_seconds')
return {id, tostring(seconds_old(id, clock())), unpack(f)}
"""
)
"""ARGV: prefix, exact key, TTL (0 = none). Returns the entry's id, age, what its picture needs
and took, or nothing."""

NOTE_SAFETY = """
local key = ARGV[1] .. 'entry:' .. ARGV[2]
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HSET', key, 'safety', ARGV[3])
return 1
"""
"""ARGV: prefix, id, version of the checker. Returns 1 if the entry is there."""

CANDIDATES = (
    CLOCK
    + """
local partition, ttl, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local reader, quarantine, witnesses = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local now, out = clock(), {}
local function shared(author, text, born)
  -- Old enough, and asked for in these words by tenants that are neither its author nor whoever looks for it now.
  if not (author and text and tonumber(born or '') and tonumber(born) + quarantine <= now) then return false end
  local key = P .. 'texts:' .. partition .. ':' .. text
  local others = redis.call('HLEN', key) - redis.call('HEXISTS', key, author) - redis.call('HEXISTS', key, reader)
  return others >= witnesses
end
for i = 8, #ARGV do
  local f = redis.call('HMGET', P .. 'entry:' .. ARGV[i],
                       'partition', 'prompt', 'embedding', 'tenant', 'text', 'born')
  local left = ttl > 0 and seconds_left(ARGV[i], ttl, now) or 1
  local own = reader == '' or f[4] == reader
  if f[1] == partition and left > 0 and (own or shared(f[4], f[5], f[6])) then
    local age = tostring(seconds_old(ARGV[i], now))
    local row = {ARGV[i], f[2], tostring(left), age, f[3], own and '1' or '0'}
    local states = redis.call('HGETALL', P .. 'states:' .. ARGV[i])
    for j = 1, #states, 2 do
      if not string.find(states[j], ':', 1, true) then row[#row + 1] = states[j + 1] end
    end
    if #row > 6 then out[#out + 1] = row end
  end
end
if lease > 0 then
  redis.call('ZREMRANGEBYSCORE', P .. 'leases', '-inf', string.format('%.6f', now))
  for _, row in ipairs(out) do redis.call('ZADD', P .. 'leases', 'GT', string.format('%.6f', now + lease), row[1]) end
end
return out
"""
)
"""ARGV: prefix, partition, TTL (0 = none), seconds to lease the answers for (0 = not), then of a public partition who
reads, seconds of quarantine and witnesses needed (of another: nothing, 0, 0), then entry ids.

Returns (id, prompt, seconds of life left, age, embedding, 1 if it is the reader's own, state records...) of those
entries of the partition that hold a state and that the reader may see, in the order given."""

FRESH = (
    CLOCK
    + """
local ttl, now, out = tonumber(ARGV[2]), clock(), {}
for i = 3, #ARGV do
  if seconds_left(ARGV[i], ttl, now) > 0 then out[#out + 1] = ARGV[i] end
end
return out
"""
)
"""ARGV: prefix, TTL, then entry ids. Returns those not past their time."""

EXPIRED = (
    CLOCK
    + """
local before = string.format('(%.6f', clock() - tonumber(ARGV[2]))
return redis.call('ZRANGEBYSCORE', P .. 'entries', '-inf', before, 'LIMIT', 0, ARGV[3])
"""
)
"""ARGV: prefix, TTL, limit. Returns entries past their time, oldest first."""

READ_CLOCK = (
    CLOCK
    + """
local now = string.format('%.6f', clock())
redis.call('ZREMRANGEBYSCORE', P .. 'leases', '-inf', now)
return {now, redis.call('GET', P .. 'clock:offset') or '0'}
"""
)
"""ARGV: prefix. Returns the catalogue's time and the offset in it; forgets leases that have run out."""

SET_CLOCK = """
local key = ARGV[1] .. 'clock:offset'
if (redis.call('GET', key) or '0') ~= ARGV[2] then return 0 end
redis.call('SET', key, ARGV[3])
return 1
"""
"""ARGV: prefix, offset as it was read, new offset. Does nothing when somebody else has set it meanwhile."""
