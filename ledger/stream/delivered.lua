-- The epoch and the position that was delivered last to a group; nil if Redis has no such group.
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
