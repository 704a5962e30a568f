"""The Kafka topics: names, cleanup policies, and which partition a user belongs to.

The table of topics is a contract with other services; `lsvcr topics create` makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

VIDEO_VIEWS = "video-views"
COMMENT_INTERACTIONS = "comment-interactions"
VIDEOS = "videos"
COMMENTS = "comments"
VIDEO_RECOMMENDATIONS = "video-recommendations"
COMMENT_RECOMMENDATIONS = "comment-recommendations"
LIVE_SIGNALS = "live-signals"
MODEL_RELEASES = "model-releases"
DEAD_LETTERS = "dead-letters"

EVENT_TOPICS = (VIDEO_VIEWS, COMMENT_INTERACTIONS)
CATALOG_TOPICS = (VIDEOS, COMMENTS)
RECOMMENDATION_TOPICS = (VIDEO_RECOMMENDATIONS, COMMENT_RECOMMENDATIONS)

#: id of the Faust application: consumer group, and prefix of the changelog topic.
APP_ID = "lsvcr"
#: name of the one Faust table, key user_id.
STATE_TABLE = "user-state"
STATE_CHANGELOG = f"{APP_ID}-{STATE_TABLE}-changelog"

DEFAULT_PARTITIONS = 8

#: of a record
Headers = list[tuple[str, bytes]]

_DAY_MS = 24 * 3600 * 1000
_COMPACT = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": str(_DAY_MS)}
# Some producers stamp records with the event's time; the worker, not the broker, judges how far ahead that may be.
_EVENTS = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.after.max.ms": str(2 * _DAY_MS)}
# A dead letter is a record that some broker took, and headers on top.
_DEAD_LETTERS = {"cleanup.policy": "delete", "retention.ms": str(90 * _DAY_MS), "max.message.bytes": str(16 << 20)}
# As long as a single event takes to fade with the longest half-life, 180 days; a share may rest that long.
_SHARES = {**_COMPACT, "cleanup.policy": "compact,delete", "retention.ms": str(1200 * _DAY_MS)}
_COMPACT_DELETE = {**_COMPACT, "cleanup.policy": "compact,delete", "retention.ms": str(30 * _DAY_MS)}


@dataclass(frozen=True)
class TopicSpec:
    """One topic of the system.

    `by_user` topics share one partition count (they are co-partitioned with the state's changelog);
    the others have `partitions`.
    """

    name: str
    by_user: bool = False
    partitions: int = 1
    config: dict[str, str] = field(default_factory=dict)


TOPICS: tuple[TopicSpec, ...] = (
    TopicSpec(VIDEO_VIEWS, by_user=True, config=_EVENTS),
    TopicSpec(COMMENT_INTERACTIONS, by_user=True, config=_EVENTS),
    TopicSpec(VIDEOS, config=_COMPACT),
    TopicSpec(COMMENTS, config=_COMPACT),
    TopicSpec(VIDEO_RECOMMENDATIONS, by_user=True, config=_COMPACT_DELETE),
    TopicSpec(COMMENT_RECOMMENDATIONS, by_user=True, config=_COMPACT_DELETE),
    TopicSpec(LIVE_SIGNALS, config=_SHARES),
    TopicSpec(MODEL_RELEASES, config=_COMPACT),
    TopicSpec(DEAD_LETTERS, config=_DEAD_LETTERS),
    TopicSpec(STATE_CHANGELOG, by_user=True, config=_COMPACT),
)


@lru_cache(maxsize=1 << 18)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a user: murmur2 of the key, as the Java client, kafka-python and aiokafka do it.

    librdkafka hashes otherwise by default (CRC32), so an event may arrive elsewhere; see `streams.intake`.
    Cached because murmur2 in Python takes microseconds and users come back.
    """
    # Imported here: most who need a topic's name never ask for a partition, and the client takes a while to import.
    from aiokafka.partitioner import murmur2

    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
