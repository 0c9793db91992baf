"""The Lua scripts that find, and mend, where the catalogue's keys disagree with one another.

An entry's hash and its states hash are what is believed; every other key is derived from them. One script serves the
check and the repair, so that both mean the same, and each entry is judged and mended as one.
"""

from cache_store.scripts import COMMON

_HELPERS = """
local mending, notes = ARGV[2] == '1', {}
local function note(...) notes[#notes + 1] = table.concat({...}) end
local function repair(text, ...)
  note(text)
  if mending then redis.call(...) end
end
local function shown(name)
  -- Whatever stands where a number belongs may be anything, and ends up in a log.
  return string.match(name, '^-?%d+$') and name or '?'
end
local function whole(f)
  for i = 1, 7 do if not f[i] then return false end end
  return tonumber(f[5]) and tonumber(f[6]) and true or false
end
local function readable(raw, id, level)
  local ok, s = pcall(cjson.decode, raw)
  return ok and type(s) == 'table' and type(s.member) == 'string' and type(s.nbytes) == 'number'
    and type(s.log_snr) == 'number' and type(s.skip) == 'number' and tonumber(level) ~= nil
    and string.sub(s.member, -#(':' .. id .. ':' .. level)) == ':' .. id .. ':' .. level and s or nil
end
local function fields_of(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end
"""

MEND_ENTRIES = (
    COMMON
    + _HELPERS
    + """
local function give_up(id, f)
  if not (redis.call('EXISTS', P .. 'entry:' .. id, P .. 'states:' .. id) > 0
          or redis.call('ZSCORE', P .. 'entries', id)) then return end
  note('entry ', id, ' is incomplete')
  if not mending then return end
  for level, raw in pairs(fields_of(P .. 'states:' .. id)) do
    local s = readable(raw, id, level)
    if s then redis.call('ZREM', P .. 'order', s.member) end
    if not string.find(level, ':', 1, true) then emit('evict', id, level, 'corrupt') end
  end
  redis.call('ZREM', P .. 'images', id)
  if f[4] and redis.call('GET', P .. 'exact:' .. f[4]) == id then redis.call('DEL', P .. 'exact:' .. f[4]) end
  forget(id)
end
local function mend_state(key, id, level, raw, map)
  local s = readable(raw, id, level)
  local name = 'state (' .. id .. ', ' .. shown(level) .. ') '
  if not s then
    repair(name .. 'is unreadable', 'HDEL', key, level, level .. ':u', level .. ':l')
    if mending then emit('evict', id, level, 'corrupt') end
    return 0, 0
  end
  for _, counter in ipairs({':u', ':l'}) do
    if not tonumber(map[level .. counter] or '') then
      repair(name .. 'lacks a counter', 'HSET', key, level .. counter, counter == ':u' and '0' or s.created or '0')
    end
  end
  if redis.call('ZSCORE', P .. 'order', s.member) == false then
    local used = tonumber(map[level .. ':l'] or '') or 0
    repair(name .. 'is not in the eviction order', 'ZADD', P .. 'order', used, s.member)
  end
  return 1, s.nbytes
end
local function mend_states(id)
  local key, count, nbytes = P .. 'states:' .. id, 0, 0
  local map = fields_of(key)
  for name, raw in pairs(map) do
    local level = string.match(name, '^(.*):[^:]*$')
    if not level then
      local found, size = mend_state(key, id, name, raw, map)
      count, nbytes = count + found, nbytes + size
    elseif not map[level] then
      repair('entry ' .. id .. ' counts uses of no state', 'HDEL', key, name)
    end
  end
  return count, nbytes
end
local function mend_picture(id, f)
  local size = tonumber(f[5])
  if size <= 0 then return 0 end
  if redis.call('ZSCORE', P .. 'images', id) == false then
    repair('picture of entry ' .. id .. ' is not in the eviction order', 'ZADD', P .. 'images', '0', id)
  end
  local holder = redis.call('GET', P .. 'exact:' .. f[4])
  if holder ~= id and not f[10] then
    local h = holder and redis.call('HMGET', P .. 'entry:' .. holder, 'exact_key', 'image_bytes') or {}
    -- Records of before 'superseded' say nothing of having been followed by another picture.
    if not (h[1] == f[4] and h[2] and h[2] ~= '0') then
      repair('picture of entry ' .. id .. ' is not under its exact key', 'SET', P .. 'exact:' .. f[4], id)
    end
  end
  return size
end
local function mend_lists(id, f, states)
  local name = 'entry ' .. id .. ' '
  if redis.call('ZSCORE', P .. 'entries', id) == false then
    repair(name .. 'is not listed', 'ZADD', P .. 'entries', tonumber(f[9] or '') or f[6], id)
  end
  if redis.call('ZSCORE', P .. 'tenant:' .. f[1], id) == false then
    repair(name .. 'is not listed under its tenant', 'ZADD', P .. 'tenant:' .. f[1], f[6], id)
  end
  if f[8] and redis.call('SISMEMBER', P .. 'user:' .. f[8], id) == 0 then
    repair(name .. 'is not listed under its user', 'SADD', P .. 'user:' .. f[8], id)
  end
  if states == 0 then return end
  if redis.call('SISMEMBER', P .. 'partition:' .. f[2], id) == 0 then
    note(name, 'is not listed in its partition')
    if mending then join_partition(id, f[2]) end
  end
  if redis.call('SISMEMBER', P .. 'partitions', f[2]) == 0 then
    repair('the partition of entry ' .. id .. ' is not listed', 'SADD', P .. 'partitions', f[2])
  end
end
local out = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  notes = {}
  local f = redis.call('HMGET', P .. 'entry:' .. id, 'tenant', 'partition', 'prompt', 'exact_key', 'image_bytes',
                       'created', 'embedding', 'user', 'born', 'superseded')
  local nbytes, size = 0, 0
  if whole(f) then
    local states
    states, nbytes = mend_states(id)
    size = mend_picture(id, f)
    mend_lists(id, f, states)
    if states == 0 and size == 0 then
      note('entry ', id, ' holds nothing')
      if mending then settle(id) end
    end
  else
    give_up(id, f)
  end
  out[#out + 1] = {id, string.format('%.0f', nbytes), string.format('%.0f', size), unpack(notes)}
end
return out
"""
)
"""ARGV: prefix, 1 to mend, then entry ids. Returns (id, bytes of its states, of its picture, what is wrong...)."""

MEND_MEMBERS = (
    COMMON
    + _HELPERS
    + """
local kind, name = ARGV[3], ARGV[4]
local function entry(id, field) return redis.call('HGET', P .. 'entry:' .. id, field) end
local sets = {user = true, partition = true, partitions = true}
local list = P .. kind .. (name ~= '' and ':' .. name or '')
local function listed(member)
  -- The members were read a while ago: one that has gone meanwhile is no disagreement.
  if kind == 'exact' then return true end
  if sets[kind] then return redis.call('SISMEMBER', list, member) == 1 end
  return redis.call('ZSCORE', list, member) ~= false
end
local checks = {}
function checks.entries(id)
  if not string.match(id, '^%d+$') then
    repair('an unreadable name is listed among the entries', 'ZREM', P .. 'entries', id)
  end
end
function checks.tenant(id)
  if entry(id, 'tenant') ~= name then
    repair('entry ' .. shown(id) .. ' is listed under a tenant whose it is not', 'ZREM', P .. 'tenant:' .. name, id)
  end
end
function checks.user(id)
  if entry(id, 'user') ~= name then
    repair('entry ' .. shown(id) .. ' is listed under a user whose it is not', 'SREM', P .. 'user:' .. name, id)
  end
end
function checks.partition(id)
  if entry(id, 'partition') ~= name or redis.call('HLEN', P .. 'states:' .. id) == 0 then
    note('entry ', shown(id), ' is listed in a partition without a state there')
    if mending then leave_partition(id, name) end
  end
end
function checks.partitions(digest)
  if redis.call('EXISTS', P .. 'partition:' .. digest) == 0 then
    repair('a partition without entries is listed', 'SREM', P .. 'partitions', digest)
  end
end
function checks.images(id)
  if (tonumber(entry(id, 'image_bytes') or '') or 0) <= 0 then
    repair('picture of unknown entry ' .. shown(id), 'ZREM', P .. 'images', id)
  end
end
function checks.order(member)
  local id, level = string.match(member, '^[^:]*:([^:]*):([^:]*)$')
  local raw = id and redis.call('HGET', P .. 'states:' .. id, level)
  local s = raw and readable(raw, id, level)
  if not s or s.member ~= member then
    local key = id and '(' .. shown(id) .. ', ' .. shown(level) .. ')' or '?'
    repair('state ' .. key .. ' is in the eviction order only', 'ZREM', P .. 'order', member)
  end
end
function checks.exact(key)
  local id = redis.call('GET', P .. 'exact:' .. key)
  if id and (entry(id, 'exact_key') ~= key or (tonumber(entry(id, 'image_bytes') or '') or 0) <= 0) then
    repair('an exact key leads to no picture', 'DEL', P .. 'exact:' .. key)
  end
end
for i = 5, #ARGV do
  if listed(ARGV[i]) then checks[kind](ARGV[i]) end
end
return notes
"""
)
"""ARGV: prefix, 1 to mend, kind of list, its name, then its members. Returns what is wrong."""

SET_TOTALS = """
local P, seq = ARGV[1], ARGV[2]
local since = redis.call('XRANGE', P .. 'events', '(' .. seq .. '-0', '+', 'COUNT', '1000')
if tonumber(redis.call('GET', P .. 'events:seq') or '0') - tonumber(seq) ~= #since then return -1 end
for _, event in ipairs(since) do if event[2][2] ~= 'touch' then return -1 end end
redis.call('HSET', P .. 'totals', 'state_bytes', ARGV[3], 'image_bytes', ARGV[4])
return 1
"""
"""ARGV: prefix, number of the event the sums hold at, bytes of states, of pictures. -1: more has happened since."""
