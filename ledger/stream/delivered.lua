-- The epoch and the position that a group was handed last; nil where Redis has no such group.
local function delivered(stream, name)
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local known = {}
        for i = 1, #group, 2 do known[group[i]] = group[i + 1] end
        if known['name'] == name then
            local epoch, position = known['last-delivered-id']:match('^(%d+)-(%d+)$')
            return tonumber(epoch), tonumber(position)
        end
    end
end
