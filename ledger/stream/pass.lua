-- Acknowledges an entry that next.lua delivered: the group goes on after it, unless it is further already.
-- KEYS: the stream; the lease; the hash of delivery attempts. ARGV: group, epoch, position.
local epoch, position = delivered(KEYS[1], ARGV[1])
if epoch == tonumber(ARGV[2]) and position < tonumber(ARGV[3]) then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2] .. '-' .. ARGV[3])
end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[3])
return 1
