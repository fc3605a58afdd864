-- KEYS: the stream; a hash of the delivery attempts of deleted entries, which Redis counts for the others; a sorted set
-- of entries by the millisecond from which on they are redelivered, however long they are idle.
-- ARGV: group, consumer, milliseconds, how many at most.
-- Claims entries that were not acknowledged for so long, or are due. One that was deleted from the stream stays with its
-- consumer: a claim would make Redis forget it, and with it this answer, should nobody receive that.
-- Returns of each: id, fields (nil if it was deleted), delivery attempts, the id of the entry before it (empty if none).
local found, deleted = {}, false
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local pending = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[4])) do
    redis.call('ZREM', KEYS[3], id)
    local held = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    if held then pending[#pending + 1] = held end
end
local later = redis.call('ZCARD', KEYS[3])
for _, held in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4] + later)) do
    local known = redis.call('ZSCORE', KEYS[3], held[1])
    for _, other in ipairs(pending) do known = known or other[1] == held[1] end
    if not known and #pending < tonumber(ARGV[4]) then pending[#pending + 1] = held end
end
for _, each in ipairs(pending) do
    local id, tries = each[1], each[4]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)
        tries = tries + 1
    else
        tries, deleted = tries + redis.call('HINCRBY', KEYS[2], id, 1), true
    end
    local before = redis.call('XREVRANGE', KEYS[1], '(' .. id, '-', 'COUNT', 1)[1]
    found[#found + 1] = {id, entry and entry[2] or false, tries, before and before[1] or ''}
end
if not deleted then redis.call('DEL', KEYS[2]) end
return found
