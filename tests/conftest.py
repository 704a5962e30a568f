"""A real Kafka and a real Redis for the tests that need them, and the real data sets where they are.

`kafka` and `redis_url` are shared by the whole run: containers where a Docker engine answers, else a `LocalStack`.
A test that needs topics nobody has written to takes `fresh_topics`; one that kills servers takes a stack of its own,
`own_stack` (other partition counts: `@pytest.mark.parametrize("own_stack", [2], indirect=True)`).

`make test` runs several processes side by side, file by file; each has its own `kafka` and `redis_url`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import settings
from support.topic_removal import delete_idle_groups, delete_topics

from infra.local.stack import LocalStack
from infra.topic_admin import create_topics
from streams.topics import DEFAULT_PARTITIONS

KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.0"
REDIS_IMAGE = "redis:7"
_PREFIX = "lsvcr-tests-"

#: files that take long, beside those of the folders `faults` and `integration`
_LONG = {
    "test_alignment.py",
    "test_export.py",
    "test_finetuning.py",
    "test_full.py",
    "test_refresh.py",
    "test_refresh_stage1.py",
}

# How long an example takes on a busy machine says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Brokers that live for seconds: starting takes half the processor time without the optimising compiler.
os.environ.setdefault("LSVCR_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for `-n auto`: a broker each, so no more than four, and two on a single core, for most tests wait."""
    return min(4, max(2, os.cpu_count() or 2))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, or the last of them would run alone; those that wait in turn with those that compute."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [file for file in files if file.parent.name in ("faults", "integration")]
    waiting.sort(key=lambda file: file.name != "test_whole_path.py")  # the longest of all
    computing = [file for file in files if file.name in _LONG]
    long = [file for pair in zip_longest(waiting, computing) for file in pair if file is not None]
    items[:] = [item for file in [*long, *(file for file in files if file not in long)] for item in files[file]]


@dataclass(frozen=True)
class _Servers:
    bootstrap_servers: str
    redis_url: str


@pytest.fixture(scope="session")
def _servers() -> Iterator[_Servers]:
    if _docker_answers():
        from testcontainers.community.kafka import KafkaContainer
        from testcontainers.community.redis import RedisContainer

        container = KafkaContainer(KAFKA_IMAGE).with_kraft().with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        with container as kafka, RedisContainer(REDIS_IMAGE) as redis:
            address = kafka.get_bootstrap_server()
            create_topics(address, DEFAULT_PARTITIONS)
            yield _Servers(address, f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0")
        return
    _sweep()
    # The name tells whose it is, so that a later run can clear away what a killed one left running.
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        with LocalStack(folder) as info:
            yield _Servers(info.bootstrap_servers, info.redis_url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(_servers: _Servers) -> str:
    """Bootstrap servers of the shared broker; all topics exist, with the default partition count."""
    return _servers.bootstrap_servers


@pytest.fixture(scope="session")
def redis_url(_servers: _Servers) -> str:
    """The shared Redis, which other tests write to as well."""
    return _servers.redis_url


@pytest.fixture
def fresh_topics(kafka: str) -> str:
    """The shared broker, with every topic deleted and created anew, so empty, and no consumer group remembered."""
    delete_topics(kafka)
    delete_idle_groups(kafka)
    create_topics(kafka, DEFAULT_PARTITIONS)
    return kafka


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """A running `LocalStack` for one test alone, with all topics: to be killed, stopped and started at will."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    stack = LocalStack(folder, partitions=getattr(request, "param", None))
    try:
        with stack:
            yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir_shared() -> Path:
    """The folder of the real data sets; the test is skipped where it is missing."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("LSVCR_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}; set LSVCR_SHARED_DATA to their folder")
    return folder


def _docker_answers() -> bool:
    try:
        import docker

        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # no SDK, no socket, no engine behind it, no permission: all mean "no Docker here"
        return False


def _sweep() -> None:
    """Stop and remove the stacks of test runs that were killed before they could do so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except (ProcessLookupError, ValueError):
            LocalStack(folder).down()
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            pass  # another user's, and alive
