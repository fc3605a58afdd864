-- Acknowledges an entry that next.lua delivered: the group goes on after it, unless it is further already. Keeps its
-- place and hash: the stream, which ends before it, cannot show that it is the ledger's.
-- If the relay has published the entry meanwhile, it is pending in the stream (see adopt.lua), and is acknowledged there.
-- KEYS: the stream; the lease; the hash of delivery attempts; the entry passed last; the sorted set of due entries.
-- ARGV: group, epoch, position, hash.
local epoch, position = delivered(KEYS[1], ARGV[1])
if epoch == tonumber(ARGV[2]) and position < tonumber(ARGV[3]) then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2] .. '-' .. ARGV[3])
    redis.call('SET', KEYS[4], ARGV[2] .. '-' .. ARGV[3] .. ' ' .. ARGV[4])
end
local id = ARGV[2] .. '-' .. ARGV[3]
redis.call('XACK', KEYS[1], ARGV[1], id)
redis.call('ZREM', KEYS[5], id)
if redis.call('HDEL', KEYS[3], ARGV[3]) == 1 then redis.call('DEL', KEYS[2]) end
return 1
