-- The next entry for a group that has reached the stream's end: Postgres has it, but the end was deleted, or the relay
-- has not published it yet. It is delivered to one consumer at a time, for as long as that consumer's lease lasts.
-- KEYS: the stream; the lease; a hash from position to delivery attempts of such entries.
-- ARGV: group, consumer, milliseconds, the epoch and the position at which the ledger ends.
-- Returns: the position and its delivery attempts; nil if there is none, or another consumer has it.
local epoch, position = delivered(KEYS[1], ARGV[1])
if epoch ~= tonumber(ARGV[4]) or position >= tonumber(ARGV[5]) then return false end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return false end
return {position + 1, redis.call('HINCRBY', KEYS[3], position + 1, 1)}
