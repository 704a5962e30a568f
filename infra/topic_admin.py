"""Creating, checking and describing the topics of `streams.topics` on a Kafka cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, ConfigSource, NewTopic, TopicMetadata

from streams.topics import DEFAULT_PARTITIONS, TOPICS, TopicSpec

#: for the first answer: librdkafka keeps trying that long where nothing listens
CONTACT_S = 10.0
TIMEOUT_S = 30.0

_PARTITIONS_BY_USER = (
    "The partition of a user depends on the count. Pass the count that the topics have as --partitions; "
    "to change it, delete the topics by user and replay the events."
)
_PARTITIONS = "Such a topic must be deleted, with its records, and created again."
_POLICY = "Set the policy with `kafka-configs.sh --alter --entity-type topics --entity-name TOPIC --add-config ...`."


class TopicError(RuntimeError):
    """The topics could not be created or read. The message is written for the person at the terminal."""


class KafkaUnreachableError(TopicError):
    """No broker answers at the address."""


class TopicsDifferError(TopicError):
    """Topics exist with settings that the system can't work with. The message says which, and what to do."""

    def __init__(self, differences: list[str], advice: list[str]) -> None:
        super().__init__("\n".join([*differences, *advice]))
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
    """Create what is missing, check what exists, wait until all can be written. Returns the names of those created.

    `partitions` is the count of the topics that are partitioned by user; the others have their own (`TopicSpec`).
    Nothing is created if something that exists differs, and nothing that exists is ever changed.

    Raises:
        TopicsDifferError: an existing topic has another partition count or cleanup policy.
        KafkaUnreachableError: no broker answers.
        TopicError: the cluster refuses a topic, or its partitions get no leader.
        ValueError: `partitions` or `replication_factor` below 1.
    """
    if partitions < 1 or replication_factor < 1:
        raise ValueError("partitions and replication_factor must be at least 1")
    admin = _admin(bootstrap_servers)
    states = _describe(admin, bootstrap_servers)
    _check(states, partitions)
    missing = [spec for spec, state in zip(TOPICS, states, strict=True) if not state.exists]
    if not missing:
        return []
    created = _create(admin, missing, partitions, replication_factor)
    _wait_for_leaders(admin, {spec.name for spec in missing})
    if len(created) < len(missing):  # someone else created the others meanwhile, perhaps otherwise
        _check(_describe(admin, bootstrap_servers), partitions)
    return created


def describe_topics(bootstrap_servers: str) -> list[TopicState]:
    """The topics of the system as they are, in the order of `streams.topics.TOPICS`; also those that don't exist.

    Raises:
        KafkaUnreachableError: no broker answers.
    """
    return _describe(_admin(bootstrap_servers), bootstrap_servers)


class Readiness:
    """Asks one cluster, over one connection, whether it can be written to."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._admin = _admin(bootstrap_servers)

    def is_ready(self) -> bool:
        """Whether a broker answers and every partition that exists has a leader, so takes records."""
        try:
            metadata = self._admin.list_topics(timeout=2)
        except KafkaException:
            return False
        return bool(metadata.brokers) and all(map(_is_led, metadata.topics.values()))


def _is_led(topic: TopicMetadata) -> bool:
    return topic.error is None and all(partition.leader >= 0 for partition in topic.partitions.values())


def _wait_for_leaders(admin: AdminClient, names: set[str]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while True:
        metadata = admin.list_topics(timeout=TIMEOUT_S).topics
        waiting = sorted(name for name in names if name not in metadata or not _is_led(metadata[name]))
        if not waiting:
            return
        if time.monotonic() > end:
            raise TopicError(f"after {TIMEOUT_S:.0f} s these new topics can't be written yet: {', '.join(waiting)}")
        time.sleep(0.05)


def _admin(bootstrap_servers: str) -> AdminClient:
    # Connection failures are reported by the calls; librdkafka's own log lines would only stand between ours.
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 500})


def _describe(admin: AdminClient, bootstrap_servers: str) -> list[TopicState]:
    try:
        existing = admin.list_topics(timeout=CONTACT_S).topics
    except KafkaException as error:
        raise KafkaUnreachableError(
            f"no Kafka answers at {bootstrap_servers} ({error.args[0].str()}); "
            "start one with `lsvcr stack up`, or name another with --bootstrap-servers"
        ) from None
    here = [spec.name for spec in TOPICS if spec.name in existing]
    configs: dict[str, dict[str, ConfigEntry]] = {}
    if here:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in here]
        for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_S).items():
            try:
                configs[resource.name] = future.result()
            except KafkaException as error:
                raise TopicError(f"topic {resource.name} could not be read: {error.args[0].str()}") from None
    return [
        TopicState(
            name=spec.name,
            partitions=len(existing[spec.name].partitions),
            replication_factor=min(len(p.replicas) for p in existing[spec.name].partitions.values()),
            config={
                entry.name: entry.value or ""
                for entry in configs[spec.name].values()
                if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            },
            cleanup_policy=configs[spec.name]["cleanup.policy"].value,
        )
        if spec.name in configs
        else TopicState(spec.name)
        for spec in TOPICS
    ]


def _create(admin: AdminClient, specs: list[TopicSpec], partitions: int, replication_factor: int) -> list[str]:
    new = [NewTopic(spec.name, _partitions(spec, partitions), replication_factor, config=spec.config) for spec in specs]
    created = []
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"topic {name} could not be created: {error.args[0].str()}") from None
    return created


def _check(states: list[TopicState], partitions: int) -> None:
    differences, advice = [], []
    for spec, state in zip(TOPICS, states, strict=True):
        if not state.exists:
            continue
        wanted = _partitions(spec, partitions)
        if state.partitions != wanted:
            differences.append(f"topic {spec.name} has {state.partitions} partitions, not {wanted}")
            advice.append(_PARTITIONS_BY_USER if spec.by_user else _PARTITIONS)
        policy = spec.config["cleanup.policy"]
        if _policies(state.cleanup_policy or "") != _policies(policy):
            differences.append(f"topic {spec.name} has cleanup.policy={state.cleanup_policy}, not {policy}")
            advice.append(_POLICY)
    if differences:
        raise TopicsDifferError(differences, list(dict.fromkeys(advice)))


def _partitions(spec: TopicSpec, partitions: int) -> int:
    return partitions if spec.by_user else spec.partitions


def _policies(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")}
