"""Creating, checking and describing the topics, on a real broker."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import AdminClient, NewTopic
from support.topic_removal import delete_topics

from infra.cli import main
from infra.topic_admin import KafkaUnreachableError, TopicError, TopicsDifferError, create_topics, describe_topics
from streams.topics import DEAD_LETTERS, DEFAULT_PARTITIONS, TOPICS, VIDEOS

NAMES = [spec.name for spec in TOPICS]


def lsvcr(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.integration
def test_topics_are_created_as_specified_and_only_once(fresh_topics: str) -> None:
    delete_topics(fresh_topics)
    assert create_topics(fresh_topics, 3) == NAMES
    assert create_topics(fresh_topics, 3) == []
    states = describe_topics(fresh_topics)
    assert [state.name for state in states] == NAMES
    for spec, state in zip(TOPICS, states, strict=True):
        assert state.partitions == (3 if spec.by_user else spec.partitions)
        assert state.replication_factor == 1
        assert state.config == spec.config
    delete_topics(fresh_topics)
    create_topics(fresh_topics, DEFAULT_PARTITIONS)


@pytest.mark.integration
def test_another_partition_count_is_refused_and_nothing_is_created(fresh_topics: str) -> None:
    delete_topics(fresh_topics, [DEAD_LETTERS])
    with pytest.raises(TopicsDifferError, match="video-views has 8 partitions, not 4"):
        create_topics(fresh_topics, 4)
    assert not {state.name: state for state in describe_topics(fresh_topics)}[DEAD_LETTERS].exists
    failed = lsvcr("topics", "create", "--bootstrap-servers", fresh_topics, "--partitions", "4")
    assert failed.exit_code == 1
    assert failed.stderr.count("--partitions") == 1  # the advice is given once, not for each topic

    missing = lsvcr("topics", "describe", "--bootstrap-servers", fresh_topics, "--json")
    assert missing.exit_code == 1
    assert "missing: dead-letters" in missing.stderr
    created = lsvcr("topics", "create", "--bootstrap-servers", fresh_topics, "--json")
    assert created.exit_code == 0
    assert json.loads(created.stdout)["created"] == [DEAD_LETTERS]


@pytest.mark.integration
def test_another_cleanup_policy_is_refused(fresh_topics: str) -> None:
    delete_topics(fresh_topics, [VIDEOS])
    admin = AdminClient({"bootstrap.servers": fresh_topics})
    admin.create_topics([NewTopic(VIDEOS, 1, 1, config={"cleanup.policy": "delete"})])[VIDEOS].result()
    try:
        with pytest.raises(TopicsDifferError) as raised:
            create_topics(fresh_topics)
        assert raised.value.differences == ["topic videos has cleanup.policy=delete, not compact"]
        assert "kafka-configs.sh" in str(raised.value)
    finally:
        delete_topics(fresh_topics, [VIDEOS])
        create_topics(fresh_topics)


@pytest.mark.integration
def test_a_refusal_of_the_cluster_is_passed_on(fresh_topics: str) -> None:
    delete_topics(fresh_topics, [DEAD_LETTERS])
    with pytest.raises(TopicError, match="dead-letters could not be created"):
        create_topics(fresh_topics, replication_factor=3)
    create_topics(fresh_topics)


@pytest.mark.integration
def test_describe_shows_a_table_and_json(fresh_topics: str) -> None:
    shown = lsvcr("topics", "describe", "--bootstrap-servers", fresh_topics)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in NAMES)
    topics = json.loads(lsvcr("topics", "describe", "--bootstrap-servers", fresh_topics, "--json").stdout)["topics"]
    assert [(topic["name"], topic["exists"], topic["cleanup_policy"]) for topic in topics] == [
        (spec.name, True, spec.config["cleanup.policy"]) for spec in TOPICS
    ]


def test_no_broker_is_said_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.topic_admin.CONTACT_S", 0.2)
    failed = lsvcr("topics", "create", "--bootstrap-servers", "127.0.0.1:1")
    assert failed.exit_code == 1
    assert "127.0.0.1:1" in failed.stderr
    assert "lsvcr stack up" in failed.stderr
    with pytest.raises(KafkaUnreachableError):
        describe_topics("127.0.0.1:1")


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        create_topics("127.0.0.1:1", 0)
    assert lsvcr("topics", "create", "--partitions", "0").exit_code == 2
