-- Keep the newest list of each user, and advance the positions (contract: docs/redis.md).
-- KEYS     the keys of the lists, then the keys of the positions
-- ARGV     number of lists, seconds to live,
--          per list: value, watermark, generated_ms, model_version; per position: offset
-- Returns how many lists were refused because what is stored is newer.
-- Times and offsets are below 2^53, so Lua's doubles hold them exactly.
local lists, ttl = tonumber(ARGV[1]), ARGV[2]
local refused = 0
for i = 1, lists do
  local key, at = KEYS[i], 4 * i
  local watermark, generated_ms = ARGV[at], ARGV[at + 1]
  local stored = redis.call('HMGET', key, 'watermark', 'generated_ms')
  local stored_watermark = tonumber(stored[1]) or -1
  local stored_generated_ms = tonumber(stored[2]) or -1
  local older = stored_watermark > tonumber(watermark)
  local earlier = stored_watermark == tonumber(watermark) and stored_generated_ms > tonumber(generated_ms)
  if older or earlier then
    refused = refused + 1
  else
    redis.call('HSET', key, 'value', ARGV[at - 1], 'watermark', watermark, 'generated_ms', generated_ms,
      'model_version', ARGV[at + 2])
    redis.call('EXPIRE', key, ttl)
  end
end
-- Last, so that a position never speaks of a list whose write failed.
for i = lists + 1, #KEYS do
  local offset = ARGV[2 + 4 * lists + i - lists]
  local stored = tonumber(redis.call('GET', KEYS[i]))
  if not stored or stored < tonumber(offset) then
    redis.call('SET', KEYS[i], offset)
  end
end
return refused
