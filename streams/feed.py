"""Read recommendations: the client for feed services. the latest of a user from Redis, all as they come from Kafka.

    from streams.feed import FeedClient

    async with FeedClient("redis://localhost:6379/0", "localhost:9092") as feed:
        videos = await feed.latest_videos("u17")
        comments = await feed.latest_comments("u17", "v3")
        async for record in feed.stream("video-recommendations"):
            print(record.user_id, [item.id for item in record.items[:5]])

Connections are made when they are first needed, so a service that only reads Redis needs no Kafka. Leave a stream early
within `contextlib.aclosing(feed.stream(...))`, so that its connection closes at once.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from types import TracebackType

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from streams.latest import LatestStore
from streams.recommendations import (
    KIND_OF,
    CommentRecommendations,
    Item,
    Kind,
    RecommendationError,
    Recommendations,
    Trigger,
    VideoRecommendations,
    decode,
)
from streams.topics import RECOMMENDATION_TOPICS, partition_of

__all__ = [
    "CommentRecommendations",
    "FeedClient",
    "FeedError",
    "Item",
    "RecommendationError",
    "Recommendations",
    "Trigger",
    "VideoRecommendations",
]

log = logging.getLogger(__name__)

#: A feed is asked for on a user's time: better no answer than a late one.
_REDIS_TIMEOUT_S = 5.0


class FeedError(Exception):
    """Redis or Kafka does not answer, or a topic is missing. The message says which, and where it was looked for."""


class FeedClient:
    """Reads what the worker recommends. For one event loop; any number of tasks may share it.

    Args:
        redis_url: `redis://host:port/db`; `rediss://` for TLS.
        bootstrap_servers: `host:port`, several with commas.
    """

    def __init__(self, redis_url: str = "redis://localhost:6379/0", bootstrap_servers: str = "localhost:9092") -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._store = LatestStore(self._redis)
        self._servers = bootstrap_servers

    async def latest_videos(self, user_id: str) -> VideoRecommendations | None:
        """The videos to show a user next, best first; None if nothing was recommended in the last 30 days.

        Raises:
            FeedError: Redis does not answer.
            RecommendationError: the record was written by a release that this one can't read.
        """
        record = await self._latest("videos", user_id)
        return record if isinstance(record, VideoRecommendations) else None

    async def latest_comments(self, user_id: str, video_id: str | None = None) -> CommentRecommendations | None:
        """The comments to show a user under a video, best first.

        One list is kept per user, for the video that the user was last on. None if that is not `video_id`, or if there
        is no list; without `video_id` the list is returned whatever its video. Raises as `latest_videos`.
        """
        record = await self._latest("comments", user_id)
        if not isinstance(record, CommentRecommendations):
            return None
        return record if video_id in (None, record.video_id) else None

    async def stream(
        self, *topics: str, user_id: str | None = None, from_beginning: bool = False
    ) -> AsyncGenerator[Recommendations, None]:
        """Recommendations as they are made, without end; per user in the order in which they were made.

        Of both topics unless some are named; of all users unless `user_id` is given, which reads only that user's
        partition. From now on, or `from_beginning`: then what Kafka still has, which is at least each user's last.
        A record that can't be read is logged and left out.

        Raises:
            FeedError: Kafka does not answer, or a topic is missing.
            ValueError: a topic without recommendations.
        """
        names = topics or RECOMMENDATION_TOPICS
        for name in names:
            if name not in KIND_OF:
                raise ValueError(f"{name} is no topic of recommendations: {', '.join(KIND_OF)}")
        key = None if user_id is None else user_id.encode()
        consumer = AIOKafkaConsumer(bootstrap_servers=self._servers, group_id=None, enable_auto_commit=False)
        try:
            places = await self._places(names, key)
            await consumer.start()
            consumer.assign(places)
            if from_beginning:
                await consumer.seek_to_beginning(*places)
            else:
                await consumer.seek_to_end(*places)
            async for record in consumer:
                if record.value is None or (key is not None and record.key != key):
                    continue
                try:
                    recommendations = decode(KIND_OF[record.topic], record.value)
                except RecommendationError as error:
                    log.warning("skipping %s[%d]@%d: %s", record.topic, record.partition, record.offset, error)
                    continue
                yield recommendations
        except (KafkaError, OSError) as error:
            raise FeedError(f"no Kafka broker answers at {self._servers}: {error}") from error
        finally:
            await consumer.stop()

    async def close(self) -> None:
        """Let go of the connection to Redis. A stream closes its own when it is left."""
        await self._redis.aclose()

    async def __aenter__(self) -> FeedClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _latest(self, kind: Kind, user_id: str) -> Recommendations | None:
        try:
            value = await self._store.read(kind, user_id)
        except (RedisError, OSError) as error:
            place = self._redis.connection_pool.connection_kwargs  # not the URL, which may hold a password
            where = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
            raise FeedError(f"Redis does not answer at {where}: {error}") from error
        return None if value is None else decode(kind, value)

    async def _places(self, names: tuple[str, ...], key: bytes | None) -> list[TopicPartition]:
        """The partitions of the topics; with `key` only its own of each."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        try:
            await admin.start()
            described = await admin.describe_topics(list(names))
        finally:
            await admin.close()
        places = []
        for topic in described:
            name, count = topic["topic"], len(topic["partitions"])
            if topic["error_code"] or not count:
                raise FeedError(f"topic {name} does not exist on {self._servers}: create it with `lsvcr topics create`")
            numbers = range(count) if key is None else [partition_of(key, count)]
            places += [TopicPartition(name, number) for number in numbers]
        return places
