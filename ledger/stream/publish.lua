-- KEYS[1] the stream; ARGV: the last id it must have, the epoch, then position, envelope, body, hash of each entry, and
-- the position of the entry that it erases (empty where it erases none), whose copy is deleted if it has a body.
-- Returns the stream's last id: the new one, or, with nothing added, the one that was not expected.
local function has_body(id)
    local found = redis.call('XRANGE', KEYS[1], id, id)
    local fields = found[1] and found[1][2] or {}
    for i = 1, #fields, 2 do
        if fields[i] == 'body' and fields[i + 1] == '' then return false end
    end
    return #found > 0
end
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end
if last ~= ARGV[1] then return last end
-- An erasure reaches copies of its own epoch. Of one that is over none may stay: they may never have been the ledger's.
if #ARGV > 2 and tonumber(string.match(last, '^%d+')) < tonumber(ARGV[2]) then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2] .. '-0')
end
for i = 3, #ARGV, 5 do
    last = redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. ARGV[i],
        'envelope', ARGV[i + 1], 'body', ARGV[i + 2], 'hash', ARGV[i + 3])
    local erased = ARGV[2] .. '-' .. ARGV[i + 4]
    if ARGV[i + 4] ~= '' and has_body(erased) then redis.call('XDEL', KEYS[1], erased) end
end
return last
