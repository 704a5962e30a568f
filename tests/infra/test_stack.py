"""The local stack on real processes: what survives, what is refused, what is said."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer

from infra.cli import main
from infra.local.stack import LocalStack, StackError
from infra.topic_admin import describe_topics
from streams.topics import VIDEO_VIEWS


def lsvcr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(stack: LocalStack, value: str) -> None:
    """One record to Kafka, confirmed, and one value to Redis."""
    status = stack.status()
    producer = Producer({"bootstrap.servers": status.bootstrap_servers, "acks": "all"})
    failures: list[object] = []
    producer.produce(VIDEO_VIEWS, value.encode(), partition=0, on_delivery=lambda error, _: failures.append(error))
    producer.flush(60)
    assert failures == [None]
    assert status.redis_url is not None
    with redis.Redis.from_url(status.redis_url) as client:
        client.rpush("written", value)


def read(stack: LocalStack, count: int) -> tuple[list[str], list[str]]:
    """The first `count` records of Kafka and everything that Redis was told."""
    status = stack.status()
    consumer = Consumer(
        {"bootstrap.servers": status.bootstrap_servers, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([VIDEO_VIEWS])
    messages = consumer.consume(count, timeout=60)
    consumer.close()
    assert status.redis_url is not None
    with redis.Redis.from_url(status.redis_url) as client:
        return [message.value().decode() for message in messages], [v.decode() for v in client.lrange("written", 0, -1)]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.integration
def test_data_and_addresses_survive_down_and_up(own_stack: LocalStack) -> None:
    before = own_stack.status()
    write(own_stack, "kept")
    own_stack.down()
    assert not own_stack.status().running
    assert own_stack.up().started
    now = own_stack.status()
    assert (now.bootstrap_servers, now.redis_url) == (before.bootstrap_servers, before.redis_url)
    assert now.kafka_pid != before.kafka_pid
    assert read(own_stack, 1) == (["kept"], ["kept"])


@pytest.mark.integration
def test_data_survive_a_crash_of_both(own_stack: LocalStack) -> None:
    write(own_stack, "before")
    own_stack.kill_kafka()
    own_stack.kill_redis()
    now = own_stack.status()
    assert (now.kafka_pid, now.redis_pid) == (None, None)
    own_stack.start_redis()
    own_stack.start_kafka()
    write(own_stack, "after")
    assert read(own_stack, 2) == (["before", "after"], ["before", "after"])


@pytest.mark.integration
@pytest.mark.parametrize("own_stack", [2], indirect=True)
def test_the_partition_count_is_kept_unless_another_is_asked_for(own_stack: LocalStack) -> None:
    folder = own_stack.data_dir
    assert lsvcr("stack", "up", "--data-dir", folder).exit_code == 0
    address = str(own_stack.status().bootstrap_servers)
    topics = {state.name: state.partitions for state in describe_topics(address)}
    assert topics[VIDEO_VIEWS] == 2
    refused = lsvcr("stack", "up", "--data-dir", folder, "--partitions", "3")
    assert refused.exit_code == 1
    assert "has 2 partitions, not 3" in refused.stderr
    assert own_stack.status().running


@pytest.mark.integration
def test_the_commands_start_report_and_stop(own_stack: LocalStack) -> None:
    folder = own_stack.data_dir
    shown = json.loads(lsvcr("stack", "up", "--data-dir", folder, "--json").stdout)
    now = own_stack.status()
    assert shown["started"] is False
    assert (shown["bootstrap_servers"], shown["redis_url"]) == (now.bootstrap_servers, now.redis_url)
    again = lsvcr("stack", "up", "--data-dir", folder)
    assert "running already" in again.stdout
    assert str(own_stack.logs_dir) in again.stdout

    running = lsvcr("stack", "status", "--data-dir", folder, "--json")
    assert running.exit_code == 0
    assert json.loads(running.stdout)["running"] is True
    moved = lsvcr("stack", "up", "--data-dir", folder, "--redis-port", "1")
    assert moved.exit_code == 1
    assert "already runs" in moved.stderr

    own_stack.stop_redis()
    half = lsvcr("stack", "status", "--data-dir", folder)
    assert half.exit_code == 1
    assert "Redis  not running" in half.stdout
    assert "Kafka  running" in half.stdout
    assert json.loads(lsvcr("stack", "down", "--data-dir", folder, "--json").stdout) == {"stopped": True}
    assert lsvcr("stack", "status", "--data-dir", folder).exit_code == 1
    assert "Nothing" in lsvcr("stack", "down", "--data-dir", folder).stdout


@pytest.mark.integration
def test_two_at_once_start_one_stack_also_in_an_awkward_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Größe & mehr 😀"
    command = [sys.executable, "-c", "from infra.cli import main; main()", "stack", "up", "--json", "--no-topics"]
    command += ["--data-dir", str(folder), "--kafka-port", "0", "--redis-port", "0"]
    try:
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=300) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        first, second = (json.loads(out) for out, _ in said)
        assert sorted([first.pop("started"), second.pop("started")]) == [False, True]
        assert first == second
    finally:
        LocalStack(folder).down()


@pytest.mark.integration
def test_a_taken_port_is_named_and_nothing_is_left_running(tmp_path: Path, taken_port: int) -> None:
    failed = lsvcr("stack", "up", "--data-dir", tmp_path, "--kafka-port", taken_port, "--redis-port", "0")
    assert failed.exit_code == 1
    assert f"port {taken_port} is taken" in failed.stderr
    assert "--kafka-port" in failed.stderr
    status = LocalStack(tmp_path).status()
    assert (status.kafka_pid, status.redis_pid) == (None, None)

    failed = lsvcr("stack", "up", "--data-dir", tmp_path, "--kafka-port", "0", "--redis-port", taken_port)
    assert failed.exit_code == 1
    assert "--redis-port" in failed.stderr


@pytest.mark.integration
def test_a_broker_that_dies_at_its_start_shows_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "meta.properties").write_text("version=no number\n")
    stack = LocalStack(tmp_path)
    with pytest.raises(StackError, match="died at its start") as raised:
        stack.up()
    assert str(tmp_path / "logs" / "kafka.log") in str(raised.value)
    assert "no number" in str(raised.value)
    assert stack.status().redis_pid is None


def test_without_the_download_up_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSVCR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LSVCR_MAVEN_URL", "http://127.0.0.1:1")
    failed = lsvcr("stack", "up", "--data-dir", tmp_path / "data", "--kafka-port", "0", "--redis-port", "0")
    assert failed.exit_code == 1
    assert "lsvcr stack fetch" in failed.stderr
    assert str(tmp_path / "cache") in failed.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["fetch.lock"]
    assert LocalStack(tmp_path / "data").status().redis_pid is None


def test_nothing_started_means_status_1_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    said = lsvcr("stack", "status", "--data-dir", folder, "--json")
    assert said.exit_code == 1
    assert json.loads(said.stdout)["running"] is False
    assert lsvcr("stack", "down", "--data-dir", folder).exit_code == 0
    assert not folder.exists()


def test_a_port_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    assert lsvcr("stack", "up", "--data-dir", tmp_path, "--kafka-port", "70000").exit_code == 2
