"""What a worker looks at before it starts: the broker, the topics, and which libraries talk too much."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams import topics


class WorkerError(RuntimeError):
    """The worker can't start; the message says what to do."""


def check_topics(bootstrap_servers: str) -> dict[str, int]:
    """Partition counts of our topics.

    Raises:
        WorkerError: the broker is away, a topic is missing, or the topics keyed by user differ in their partitions.
    """
    try:
        found = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 2}).list_topics(timeout=10).topics
    except KafkaException as error:
        raise WorkerError(f"no Kafka at {bootstrap_servers} ({error}); is it up? `lsvcr stack up` starts one") from None
    wanted = [spec.name for spec in topics.TOPICS]
    if missing := [name for name in wanted if name not in found]:
        raise WorkerError(f"topics missing: {', '.join(missing)}; run `lsvcr topics create`")
    counts = {name: len(found[name].partitions) for name in wanted}
    by_user = {spec.name: counts[spec.name] for spec in topics.TOPICS if spec.by_user}
    if len(set(by_user.values())) > 1:
        raise WorkerError(f"topics keyed by user must have one partition count, but have {by_user}")
    return counts


def quiet_libraries() -> None:
    """Without this, aiokafka and Faust make debug records for each message, a tenth of a worker's time."""
    for name in ("aiokafka", "faust", "mode", "kafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
