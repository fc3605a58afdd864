-- KEYS[1] the stream; ARGV: the last id it must have, the epoch, then position, envelope, body, hash of each entry.
-- Returns the stream's last id: the new one, or, with nothing added, the one that was not expected.
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end
if last ~= ARGV[1] then return last end
for i = 3, #ARGV, 4 do
    last = redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. ARGV[i],
        'envelope', ARGV[i + 1], 'body', ARGV[i + 2], 'hash', ARGV[i + 3])
end
return last
