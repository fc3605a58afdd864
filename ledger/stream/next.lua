-- What a group comes to next, where the stream has no more of it: Postgres has it, but the stream's end was deleted, or
-- nobody published it yet. One consumer at a time is handed it, for as long as its lease lasts.
-- KEYS: the stream; the lease; a hash that counts how often each position was handed out so.
-- ARGV: group, consumer, milliseconds, the epoch and the position at which the ledger ends.
-- Returns: the position and how often it was handed out; nil where there is none, or another consumer has it.
local epoch, position = delivered(KEYS[1], ARGV[1])
if epoch ~= tonumber(ARGV[4]) or position >= tonumber(ARGV[5]) then return false end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return false end
return {position + 1, redis.call('HINCRBY', KEYS[3], position + 1, 1)}
