-- The group has dealt with an entry that next.lua gave out: it goes on behind that, unless it is further already.
-- KEYS: the stream; the lease; the hash of counts. ARGV: group, epoch, position.
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local name, delivered
    for i = 1, #group, 2 do
        if group[i] == 'name' then name = group[i + 1] end
        if group[i] == 'last-delivered-id' then delivered = group[i + 1] end
    end
    if name == ARGV[1] then
        local epoch, position = delivered:match('^(%d+)-(%d+)$')
        if tonumber(epoch) == tonumber(ARGV[2]) and tonumber(position) < tonumber(ARGV[3]) then
            redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2] .. '-' .. ARGV[3])
        end
    end
end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[3])
return 1
