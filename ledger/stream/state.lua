-- KEYS[1] the stream. Returns: last generated id, first id, newest id and its hash (empty where there is no entry).
if redis.call('EXISTS', KEYS[1]) == 0 then return {'0-0', '', '', ''} end
local last, first, newest, hash = '0-0', '', '', ''
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
    if info[i] == 'first-entry' and info[i + 1] then first = info[i + 1][1] end
    if info[i] == 'last-entry' and info[i + 1] then
        newest = info[i + 1][1]
        local fields = info[i + 1][2]
        for j = 1, #fields, 2 do
            if fields[j] == 'hash' then hash = fields[j + 1] end
        end
    end
end
return {last, first, newest, hash}
