"""The Lua scripts of `cache_store.deposits`.

`deposit:<kind>:<name>` is a hash; `deposits` orders all by the end of their life, `deposits:<kind>:<tenant>` a
tenant's by their number, `deposits:sized` those with bytes by their number; `deposits:bytes` counts these.
`forgotten:job:<name>` names, for a while, the tenant of a job that was deleted on purpose: whoever still draws it
learns by it that the job is not merely lost.
"""

from cache_store.scripts import CLOCK

_COMMON = (
    CLOCK
    + """
local function drop(member)
  local key = P .. 'deposit:' .. member
  local f = redis.call('HMGET', key, 'tenant', 'size')
  local size, kind, name = tonumber(f[2] or '0') or 0, string.match(member, '^(%a+):(%x+)$')
  if f[1] and kind then redis.call('ZREM', P .. 'deposits:' .. kind .. ':' .. f[1], name) end
  redis.call('ZREM', P .. 'deposits', member)
  if size > 0 then
    redis.call('ZREM', P .. 'deposits:sized', member)
    redis.call('DECRBY', P .. 'deposits:bytes', size)
  end
  redis.call('DEL', key)
  return size > 0
end
local function live(member, tenant, now)
  local f = redis.call('HMGET', P .. 'deposit:' .. member, 'tenant', 'expires')
  return f[1] == tenant and tonumber(f[2]) > now
end
local function forgotten(member) return P .. 'forgotten:' .. member end
local function write(member, seconds, body, size, sha256, now)
  local key, expires = P .. 'deposit:' .. member, string.format('%.6f', now + seconds)
  redis.call('HSET', key, 'body', body, 'expires', expires, 'written', string.format('%.6f', now))
  redis.call('ZADD', P .. 'deposits', expires, member)
  if tonumber(size) > 0 then
    local f = redis.call('HMGET', key, 'size', 'number')
    redis.call('INCRBY', P .. 'deposits:bytes', size - (tonumber(f[1] or '0') or 0))
    redis.call('HSET', key, 'size', size, 'sha256', sha256)
    redis.call('ZADD', P .. 'deposits:sized', f[2], member)
  end
end
local function shed_bytes(out, kept, most)
  -- A bound that was lowered is reached in a few writes, none of which takes long.
  for _, old in ipairs(redis.call('ZRANGE', P .. 'deposits:sized', 0, 99)) do
    if tonumber(redis.call('GET', P .. 'deposits:bytes') or '0') <= tonumber(most) then break end
    if old ~= kept and drop(old) then out[#out + 1] = old end
  end
end
"""
)

CREATE = (
    _COMMON
    + """
local kind, name, tenant, user, seconds, body, size, sha256, most, most_bytes = unpack(ARGV, 2)
local member, now, out = kind .. ':' .. name, clock(), {}
local key, list = P .. 'deposit:' .. member, P .. 'deposits:' .. kind .. ':' .. tenant
local expires = redis.call('HGET', key, 'expires')
if expires and tonumber(expires) > now then return false end
if expires and drop(member) then out[1] = member end
local number = redis.call('INCR', P .. 'deposits:number')
redis.call('HSET', key, 'tenant', tenant, 'user', user, 'created', string.format('%.6f', now), 'number', number,
           'size', 0, 'sha256', '', 'flag', '')
redis.call('ZADD', list, number, name)
write(member, seconds, body, size, sha256, now)
local over = redis.call('ZCARD', list) - most
if over > 0 then
  for _, old in ipairs(redis.call('ZRANGE', list, 0, math.min(over, 100) - 1)) do
    if drop(kind .. ':' .. old) then out[#out + 1] = kind .. ':' .. old end
  end
end
shed_bytes(out, member, most_bytes)
return out
"""
)
"""ARGV: prefix, kind, name, tenant, user, seconds, body, size, sha256, most of the tenant's, most bytes.

Returns what was dropped with bytes, or nothing when there is one of this name."""

UPDATE = (
    _COMMON
    + """
local kind, name, tenant, seconds, body, size, sha256, most_bytes = unpack(ARGV, 2)
local member, now = kind .. ':' .. name, clock()
if not live(member, tenant, now) then
  if redis.call('GET', forgotten(member)) == tenant then return 'forgotten' end
  return false
end
write(member, seconds, body, size, sha256, now)
local out = {redis.call('HGET', P .. 'deposit:' .. member, 'flag')}
shed_bytes(out, member, most_bytes)
return out
"""
)
"""ARGV: prefix, kind, name, tenant, seconds, body, size (0 = as it is), sha256, most bytes.

Returns the flag, then what was dropped with bytes; the word "forgotten" when `DROP` left a mark of it; nothing when
it is not there."""

FIND = (
    _COMMON
    + """
local kind, tenant = ARGV[2], ARGV[3]
local now, out = clock(), {}
for i = 4, #ARGV do
  local member = kind .. ':' .. ARGV[i]
  if live(member, tenant, now) then
    local f = redis.call('HMGET', P .. 'deposit:' .. member,
                         'number', 'body', 'size', 'sha256', 'flag', 'expires', 'written')
    out[#out + 1] = {ARGV[i], f[1], f[2], f[3], f[4], f[5], tostring(f[6] - now), tostring(now - f[7])}
  end
end
return out
"""
)
"""ARGV: prefix, kind, tenant, names. Returns (name, number, body, size, sha256, flag, seconds left, seconds idle)."""

FLAG = (
    _COMMON
    + """
local member = ARGV[2] .. ':' .. ARGV[3]
if not live(member, ARGV[4], clock()) then return 0 end
redis.call('HSET', P .. 'deposit:' .. member, 'flag', ARGV[5])
return 1
"""
)
"""ARGV: prefix, kind, name, tenant, flag."""

DROP = (
    _COMMON
    + """
local out = {}
for i = 3, #ARGV do
  local tenant = redis.call('HGET', P .. 'deposit:' .. ARGV[i], 'tenant')
  if tenant and tonumber(ARGV[2]) > 0 and string.sub(ARGV[i], 1, 4) == 'job:' then
    redis.call('SET', forgotten(ARGV[i]), tenant, 'EX', ARGV[2])
  end
  if drop(ARGV[i]) then out[#out + 1] = ARGV[i] end
end
return out
"""
)
"""ARGV: prefix, seconds for which a mark of each job is left (0 = none), members. Returns those that had bytes."""

EXPIRED = (
    CLOCK
    + """
return redis.call('ZRANGEBYSCORE', P .. 'deposits', '-inf', string.format('%.6f', clock()), 'LIMIT', 0, ARGV[2])
"""
)
"""ARGV: prefix, how many at most. Returns members past their time."""
