"""Fetching Kafka's jars, with the real client from a small Maven repository on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import kafka_jars, kafka_release
from infra.local.errors import StackError
from infra.local.kafka_jars import cached_jars, fetch_jars

COORDINATES = (
    "org.apache.kafka:kafka_2.13:4.1.0",
    "org.apache.kafka:kafka-clients:4.1.0",
    "org.slf4j:slf4j-api:1.7.36",
)
CLIENTS = COORDINATES[1]
ALL = {"kafka_2.13-4.1.0.jar", "kafka-clients-4.1.0.jar", "slf4j-api-1.7.36.jar"}


class Repository:
    """A Maven repository of three jars, which counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.digests: dict[str, str] = {}
        for coordinate in COORDINATES:
            content = f"jar of {coordinate}".encode() * 100
            jar = self.jar(coordinate)
            jar.parent.mkdir(parents=True)
            jar.write_bytes(content)
            jar.with_name(jar.name + ".sha1").write_text(hashlib.sha1(content).hexdigest())
            self.digests[coordinate] = hashlib.sha256(content).hexdigest()

    def jar(self, coordinate: str) -> Path:
        group, name, version = coordinate.split(":")
        return self.folder / group.replace(".", "/") / name / version / f"{name}-{version}.jar"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    repository = Repository(tmp_path / "repository")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            repository.asked.append(self.path.rpartition("/")[2])
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(repository.folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(kafka_jars, "JARS", repository.digests)
    monkeypatch.setenv("LSVCR_MAVEN_URL", f"http://127.0.0.1:{server.server_port}/")
    yield repository
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.jar")}


def test_everything_is_fetched_once_and_then_no_network_is_needed(repository: Repository, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    seen: list[tuple[str, int, int | None]] = []
    folder = fetch_jars(lambda *step: seen.append(step), cache)
    assert names(folder) == ALL
    assert seen[-1] == ("downloading Kafka", 3, 3)
    assert {path.name for path in cache.iterdir()} == {"fetch.lock", folder.name}
    repository.asked.clear()
    assert fetch_jars(cache=cache) == folder == cached_jars(cache)
    assert repository.asked == []


def test_fetches_at_the_same_time_download_once(repository: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: fetch_jars(cache=tmp_path / "cache"), range(4)))
    assert len(set(folders)) == 1
    jars = [name for name in repository.asked if name.endswith(".jar")]
    assert sorted(jars) == sorted(ALL)


@pytest.mark.parametrize("harm", ["missing", "cut short", "no list"])
def test_a_damaged_cache_is_fetched_anew(repository: Repository, tmp_path: Path, harm: str) -> None:
    folder = fetch_jars(cache=tmp_path / "cache")
    jar = folder / "kafka-clients-4.1.0.jar"
    whole = jar.read_bytes()
    if harm == "missing":
        jar.unlink()
    elif harm == "cut short":
        jar.write_bytes(whole[:-1])
    else:
        (folder / "jars.json").unlink()
    assert cached_jars(tmp_path / "cache") is None
    assert fetch_jars(cache=tmp_path / "cache") == folder
    assert jar.read_bytes() == whole


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_a_failed_fetch_leaves_nothing_and_the_next_one_succeeds(
    repository: Repository, tmp_path: Path, harm: str
) -> None:
    cache, jar = tmp_path / "cache", repository.jar(CLIENTS)
    whole = jar.read_bytes()
    if harm == "missing":
        jar.unlink()
    else:
        jar.write_bytes(b"something else")
    with pytest.raises(StackError, match="lsvcr stack fetch"):
        fetch_jars(cache=cache)
    assert [path.name for path in cache.iterdir()] == ["fetch.lock"]
    jar.write_bytes(whole)
    assert names(fetch_jars(cache=cache)) == ALL


def test_a_cache_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="LSVCR_CACHE_DIR"):
        fetch_jars(cache=tmp_path / "file" / "cache")


def test_the_jars_are_of_one_release_and_include_a_logger() -> None:
    parts = [coordinate.split(":") for coordinate in kafka_release.JARS]
    assert {version for group, _, version in parts if group == "org.apache.kafka"} == {kafka_release.KAFKA_VERSION}
    assert {"kafka_2.13", "kafka-clients", "kafka-server", "log4j-slf4j-impl", "log4j-core"} <= {p[1] for p in parts}
    assert all(len(digest) == 64 for digest in kafka_release.JARS.values())
