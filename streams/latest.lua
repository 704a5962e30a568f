-- Keep the newest list of one user (contract: docs/redis.md).
-- KEYS[1]  lsvcr:videos:{user_id} or lsvcr:comments:{user_id}
-- ARGV     value, watermark, generated_ms, model_version, seconds to live
-- Returns 1 if the list was stored, 0 if what is stored is newer.
-- Times are Unix ms: below 2^53, so Lua's doubles hold them exactly.
local stored = redis.call('HMGET', KEYS[1], 'watermark', 'generated_ms')
local stored_watermark = tonumber(stored[1]) or -1
local watermark = tonumber(ARGV[2])
if stored_watermark > watermark then
  return 0
end
if stored_watermark == watermark and (tonumber(stored[2]) or -1) > tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'watermark', ARGV[2], 'generated_ms', ARGV[3], 'model_version', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
