"""Deleting topics so that they are gone."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient


def delete_topics(bootstrap_servers: str, names: Iterable[str] | None = None, timeout_s: float = 60) -> None:
    """Delete topics (None: all but Kafka's own) and wait until the broker no longer lists them.

    The controller answers before the broker has heard of it, and a topic created in between would seem to exist.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    if names is None:
        names = [name for name in admin.list_topics(timeout=timeout_s).topics if not name.startswith("__")]
    doomed = set(names)
    if not doomed:
        return
    for future in admin.delete_topics(list(doomed), operation_timeout=timeout_s).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    end = time.monotonic() + timeout_s
    while left := doomed & set(admin.list_topics(timeout=timeout_s).topics):
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout_s} s these topics are still listed: {sorted(left)}")
        time.sleep(0.02)


def delete_idle_groups(bootstrap_servers: str) -> None:
    """Delete every consumer group without members, so that nobody resumes from an offset of an earlier topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    listed = admin.list_consumer_groups(request_timeout=30).result().valid
    groups = [group.group_id for group in listed if group.state == ConsumerGroupState.EMPTY]
    if groups:
        for future in admin.delete_consumer_groups(groups, request_timeout=30).values():
            future.result()
