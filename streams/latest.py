"""The latest recommendations of every user in Redis: layout, writing, reading. `docs/redis.md` is the contract.

    lsvcr:videos:{user_id}, lsvcr:comments:{user_id}   HASH
        value          the JSON of the record, as on the recommendation topic
        watermark      Unix ms of the newest event that the list covers (the trigger's `ts_ms`)
        generated_ms   Unix ms at which it was made
        model_version  the bundle that made it
    lsvcr:position:{topic}:{partition}                 STRING
        offset in a recommendation topic from which Redis may lack records; below it, it has them all

Redis never goes backwards: a script inside the server refuses a list whose watermark is older than the stored one's
(or the same with an older `generated_ms`), so it does not matter who writes, when, or how often. Positions live beside
the lists, so that a Redis that lost its data, or was restored from a snapshot, tells how far behind it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha1
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from streams.recommendations import Kind

#: A user's list is kept this long after the last write; as long as the recommendation topics keep it.
TTL_S = 30 * 24 * 3600
#: Lists per call of the script. One call for many lists costs the writer a third of what a call for each costs, even
#: in a pipeline; and with 128 the server's other clients wait for 3 ms at most.
CHUNK = 128

#: kind, user_id, value, watermark (ms), generated (ms), model version
Record = tuple[Kind, str, bytes, int, int, str]

_SCRIPT = Path(__file__).with_name("latest.lua").read_text()
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


def list_key(kind: Kind, user_id: str) -> str:
    """The key of a user's latest list."""
    return f"lsvcr:{kind}:{user_id}"


def position_key(topic: str, partition: int) -> str:
    """The key of the position of one partition of a recommendation topic."""
    return f"lsvcr:position:{topic}:{partition}"


class LatestStore:
    """Reads and writes the layout above. It does not own `redis`: whoever made the client closes it.

    Every method raises `redis.RedisError` when the server is not reachable or refuses; after that nothing is known of
    the write, and writing the same again is harmless.
    """

    def __init__(self, redis: Redis, ttl_s: int = TTL_S) -> None:
        if ttl_s < 1:
            raise ValueError(f"ttl_s must be at least 1 second, not {ttl_s}")
        self._redis = redis
        self._ttl_s = ttl_s

    async def write(self, records: Sequence[Record], positions: Mapping[tuple[str, int], int] | None = None) -> int:
        """Store lists, then advance the positions of (topic, partition); returns how many lists were refused as old.

        Positions go with the last lists, once all others are in, since a position says that Redis has what lies below.
        """
        refused = 0
        last = max(0, len(records) - 1) // CHUNK * CHUNK
        for start in range(0, last, CHUNK):
            refused += await self._call(records[start : start + CHUNK], {})
        if records or positions:
            refused += await self._call(records[last:], positions or {})
        return refused

    async def read(self, kind: Kind, user_id: str) -> bytes | None:
        """The JSON of a user's latest list, or None if there is none (never made, or expired)."""
        value = await self._redis.hget(list_key(kind, user_id), "value")
        return value.encode() if isinstance(value, str) else value

    async def positions(self, partitions: Sequence[tuple[str, int]]) -> list[int | None]:
        """The position of each (topic, partition), None where there is none: then Redis may lack any record of it."""
        if not partitions:
            return []
        stored = await self._redis.mget([position_key(*place) for place in partitions])
        return [None if offset is None else int(offset) for offset in stored]

    async def reset_position(self, topic: str, partition: int, offset: int) -> None:
        """Set a position whatever is stored: for a topic that was recreated, whose end lies below the old position."""
        await self._redis.set(position_key(topic, partition), offset)

    async def _call(self, records: Sequence[Record], positions: Mapping[tuple[str, int], int]) -> int:
        keys = [list_key(record[0], record[1]) for record in records]
        keys += [position_key(*place) for place in positions]
        arguments: list[str | bytes | int] = [len(records), self._ttl_s]
        for record in records:
            arguments += record[2:]
        arguments += positions.values()
        try:
            return int(await self._redis.evalsha(_SHA, len(keys), *keys, *arguments))
        except NoScriptError:  # the first call on this server, or it was restarted
            return int(await self._redis.eval(_SCRIPT, len(keys), *keys, *arguments))
