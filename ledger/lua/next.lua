-- What a group comes to next, where the stream has no more of it: Postgres has it, but the stream's end was deleted, or
-- nobody published it yet. One consumer at a time is handed it, for as long as its lease lasts.
-- KEYS: the stream; the lease; a hash that counts how often each position was handed out so.
-- ARGV: group, consumer, milliseconds, the epoch and the position at which the ledger ends.
-- Returns: the position and how often it was handed out; nil where there is none, or another consumer has it.
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local name, delivered
    for i = 1, #group, 2 do
        if group[i] == 'name' then name = group[i + 1] end
        if group[i] == 'last-delivered-id' then delivered = group[i + 1] end
    end
    if name == ARGV[1] then
        local epoch, position = delivered:match('^(%d+)-(%d+)$')
        position = tonumber(position) + 1
        if tonumber(epoch) ~= tonumber(ARGV[4]) or position > tonumber(ARGV[5]) then return false end
        if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return false end
        return {position, redis.call('HINCRBY', KEYS[3], position, 1)}
    end
end
return false
