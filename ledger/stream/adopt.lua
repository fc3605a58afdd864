-- A group was given an entry from the stream that next.lua delivered before the relay published it: it stays with the
-- consumer that has it, and is due for redelivery when that consumer's lease ends.
-- KEYS: the stream; the lease; the hash of delivery attempts of leased entries; the sorted set of due entries.
-- ARGV: group, consumer, id, position.
-- Returns: the milliseconds until it is due; nil if it was never leased.
local tries = redis.call('HGET', KEYS[3], ARGV[4])
if not tries then return false end
local left = math.max(0, redis.call('PTTL', KEYS[2]))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[4], string.format('%.0f', now + left), ARGV[3])
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', tries, 'JUSTID')
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[4])
return left
