-- Advance the position of one partition of an output topic (contract: docs/redis.md). It never goes backwards.
-- KEYS[1]  lsvcr:position:{topic}:{partition}
-- ARGV[1]  next offset from which Redis may lack records
-- Returns the position now stored.
local stored = tonumber(redis.call('GET', KEYS[1]))
local offset = tonumber(ARGV[1])
if stored and stored >= offset then
  return stored
end
redis.call('SET', KEYS[1], ARGV[1])
return offset
