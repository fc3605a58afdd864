-- KEYS: the stream; a hash that counts how often deleted entries were handed out, which Redis does for the others.
-- ARGV: group, consumer, milliseconds, how many at most.
-- Claims what was not acknowledged for so long. What was deleted from the stream stays with whom it was handed out to:
-- a claim would make Redis forget it, and with it this answer, should nobody receive that.
-- Returns of each: id, fields (nil where it was deleted), tries, the id of the entry before it (empty where there is none).
local found, deleted = {}, false
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
for _, each in ipairs(pending) do
    local id, tries = each[1], each[4]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)
        tries = tries + 1
    else
        tries, deleted = tries + redis.call('HINCRBY', KEYS[2], id, 1), true
    end
    local before = redis.call('XREVRANGE', KEYS[1], '(' .. id, '-', 'COUNT', 1)[1]
    found[#found + 1] = {id, entry and entry[2] or false, tries, before and before[1] or ''}
end
if not deleted then redis.call('DEL', KEYS[2]) end
return found
