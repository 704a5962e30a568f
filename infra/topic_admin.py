"""Creating, checking and describing the topics of `streams.topics` on a Kafka cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, ConfigSource, NewTopic

from streams.topics import DEFAULT_PARTITIONS, TOPICS, TopicSpec

TIMEOUT_S = 30.0


class KafkaUnreachableError(RuntimeError):
    """No broker answers at the address."""


class TopicsDifferError(RuntimeError):
    """Topics exist with settings that the system can't work with. `differences` says which and what to do."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__("\n".join(differences))
        self.differences = differences


@dataclass(frozen=True)
class TopicState:
    """One topic of the system, as it is on the cluster. `partitions` is None where the topic does not exist."""

    name: str
    partitions: int | None = None
    replication_factor: int | None = None
    #: what is set for the topic itself; the cluster's defaults are left out
    config: dict[str, str] = field(default_factory=dict)
    cleanup_policy: str | None = None

    @property
    def exists(self) -> bool:
        return self.partitions is not None


def create_topics(
    bootstrap_servers: str, partitions: int = DEFAULT_PARTITIONS, replication_factor: int = 1
) -> list[str]:
    """Create what is missing, check what exists, wait until every partition can be written. Names of the created topics.

    `partitions` is the count of the topics that are partitioned by user; the others have their own (`TopicSpec`).
    Nothing is created if something that exists differs, and nothing that exists is ever changed.

    Raises:
        TopicsDifferError: an existing topic has another partition count or cleanup policy.
        KafkaUnreachableError: no broker answers.
        ValueError: `partitions` or `replication_factor` below 1.
    """
    if partitions < 1 or replication_factor < 1:
        raise ValueError("partitions and replication_factor must be at least 1")
    admin = _admin(bootstrap_servers)
    states = {state.name: state for state in _describe(admin)}
    if differences := [text for spec in TOPICS for text in _differences(spec, states[spec.name], partitions)]:
        raise TopicsDifferError(differences)
    missing = [spec for spec in TOPICS if not states[spec.name].exists]
    if missing:
        new = [
            NewTopic(spec.name, _partitions(spec, partitions), replication_factor, config=spec.config)
            for spec in missing
        ]
        for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
            try:
                future.result()
            except KafkaException as error:
                # Someone else may create them at the same time.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise KafkaUnreachableError(f"topic {name} could not be created: {error.args[0].str()}") from None
    return [spec.name for spec in missing]


def describe_topics(bootstrap_servers: str) -> list[TopicState]:
    """The topics of the system as they are, in the order of `streams.topics.TOPICS`; also those that don't exist.

    Raises:
        KafkaUnreachableError: no broker answers.
    """
    return _describe(_admin(bootstrap_servers))


@contextmanager
def all_partitions_led(bootstrap_servers: str) -> Iterator[Callable[[], bool]]:
    """A check, made with one client, whether a broker answers and every partition has a leader, so can be written."""
    admin = _admin(bootstrap_servers)

    def check() -> bool:
        try:
            metadata = admin.list_topics(timeout=2)
        except KafkaException:
            return False
        led = (partition.leader >= 0 for topic in metadata.topics.values() for partition in topic.partitions.values())
        return bool(metadata.brokers) and all(led)

    yield check


def _admin(bootstrap_servers: str) -> AdminClient:
    # Connection failures are reported by the calls; librdkafka's own log lines would only stand between ours.
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 500})


def _describe(admin: AdminClient) -> list[TopicState]:
    try:
        existing = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise KafkaUnreachableError(str(error.args[0].str())) from None
    here = [spec.name for spec in TOPICS if spec.name in existing]
    configs: dict[str, dict[str, ConfigEntry]] = {}
    if here:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in here]
        for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
            configs[resource.name] = future.result()
    return [
        TopicState(
            name=spec.name,
            partitions=len(existing[spec.name].partitions),
            replication_factor=min(len(p.replicas) for p in existing[spec.name].partitions.values()),
            config={
                entry.name: entry.value
                for entry in configs[spec.name].values()
                if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            },
            cleanup_policy=configs[spec.name]["cleanup.policy"].value,
        )
        if spec.name in configs
        else TopicState(spec.name)
        for spec in TOPICS
    ]


def _differences(spec: TopicSpec, state: TopicState, partitions: int) -> Iterator[str]:
    if not state.exists:
        return
    wanted = _partitions(spec, partitions)
    if state.partitions != wanted:
        yield f"topic {spec.name} has {state.partitions} partitions, not {wanted}: " + (
            f"call with --partitions {state.partitions} if all topics by user have that many; a user's partition depends "
            "on the count, so changing it needs new topics and a replay"
            if spec.by_user
            else f"delete it (its records go too) or let it have {wanted}"
        )
    policy = spec.config["cleanup.policy"]
    if _policies(state.cleanup_policy or "") != _policies(policy):
        yield (
            f"topic {spec.name} has cleanup.policy={state.cleanup_policy}, not {policy}: change it with "
            f"`kafka-configs.sh --alter --topic {spec.name} --add-config cleanup.policy=[{policy}]`"
        )


def _partitions(spec: TopicSpec, partitions: int) -> int:
    return partitions if spec.by_user else spec.partitions


def _policies(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")}
