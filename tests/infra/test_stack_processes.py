"""Pid files, ports and programs: the parts of the local stack that need no server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import ports
from infra.local.broker import _escaped
from infra.local.daemon import Daemon, tail
from infra.local.errors import StackError
from infra.local.programs import find_java, find_redis_server


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon("Sleeper", tmp_path / "sleeper.pid")
    daemon.start(["sleep", "600"], out=tmp_path / "log", append=False, env=os.environ)
    yield daemon
    daemon.kill()


def test_a_daemon_runs_in_a_session_of_its_own_and_stops_when_asked(sleeper: Daemon) -> None:
    pid = sleeper.pid()
    assert pid is not None
    assert os.getsid(pid) == pid
    assert sleeper.stop(30) is True
    assert sleeper.pid() is None
    assert not sleeper.pid_file.exists()
    assert sleeper.stop(30) is True  # nothing to stop is no failure


def test_a_daemon_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    daemon = Daemon("Deaf", tmp_path / "deaf.pid")
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    daemon.start(["sh", "-c", script], out=tmp_path / "log", append=False, env=os.environ)
    assert daemon.wait_until(lambda: "ready" in tail(tmp_path / "log"), 30)
    pid = daemon.pid()
    assert pid is not None
    assert daemon.stop(0.2) is False
    assert daemon.pid() is None


def test_a_crash_is_seen_from_another_command(sleeper: Daemon) -> None:
    pid = sleeper.pid()
    assert pid is not None
    other = Daemon("Sleeper", sleeper.pid_file)  # as another process sees it
    assert other.pid() == pid
    os.kill(pid, signal.SIGKILL)
    assert not other.wait_until(lambda: False, 30)  # returns as soon as it is dead
    assert other.pid() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_whose_first_thread_ended_still_runs(tmp_path: Path) -> None:
    script = """
import ctypes, threading
threading.Thread(target=threading.Event().wait).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    daemon = Daemon("Threads", tmp_path / "threads.pid")
    daemon.start([sys.executable, "-c", script], out=tmp_path / "log", append=False, env=os.environ)
    pid = json.loads(daemon.pid_file.read_text())["pid"]
    state = Path(f"/proc/{pid}/stat")
    assert daemon.wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", 30)
    assert daemon.pid() == pid
    daemon.kill()
    assert daemon.pid() is None


def test_a_reused_process_number_is_neither_ours_nor_stopped(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as foreign:
        pid_file = tmp_path / "kafka.pid"
        pid_file.write_text(json.dumps({"pid": foreign.pid, "start": "an earlier boot:17"}))
        daemon = Daemon("Kafka", pid_file)
        assert daemon.pid() is None
        daemon.stop(5)
        daemon.kill()
        assert foreign.poll() is None
        foreign.kill()


@pytest.mark.parametrize("content", ["", "17", "{}", '{"pid": null, "start": 1}', "\0\0"])
def test_a_broken_pid_file_means_not_running(tmp_path: Path, content: str) -> None:
    pid_file = tmp_path / "kafka.pid"
    pid_file.write_text(content)
    assert Daemon("Kafka", pid_file).pid() is None


def test_ports_know_free_from_taken() -> None:
    first, second = ports.any_free(2)
    assert first != second
    assert ports.is_free(first)
    assert not ports.answers(first)
    with socket.socket() as server:
        server.bind(("127.0.0.1", first))
        server.listen()
        assert not ports.is_free(first)
        assert ports.answers(first)


def test_a_port_with_closed_connections_lingering_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first lingers in TIME_WAIT
        client.close()
    assert ports.is_free(port)


@pytest.mark.parametrize(
    ("value", "escaped"), [("/a b/c", "/a b/c"), ("a\\b", "a\\u005cb"), ("ß", "\\u00df"), ("😀", "\\ud83d\\ude00")]
)
def test_properties_hold_any_path_as_ascii(value: str, escaped: str) -> None:
    assert _escaped(value) == escaped


def test_an_old_java_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("LSVCR_JAVA", str(java))
    with pytest.raises(StackError, match=r"is Java 8; Kafka needs Java 17 or newer"):
        find_java()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\" 2024-01-16' >&2\n")
    assert find_java() == java
    monkeypatch.setenv("LSVCR_JAVA", str(tmp_path / "none"))
    with pytest.raises(StackError, match="not a Java runtime"):
        find_java()


def test_programs_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "JAVA_HOME", "LSVCR_JAVA", "LSVCR_REDIS_SERVER"):
        monkeypatch.delenv(name, raising=False)
    java = subprocess.run([find_java(), "-version"], capture_output=True, text=True)
    redis = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True)
    assert "openjdk version" in java.stderr
    assert "Redis server v=" in redis.stdout


def test_without_the_wheels_the_machine_s_own_programs_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.programs._in_package", lambda package, file: None)
    for name in ("JAVA_HOME", "LSVCR_JAVA", "LSVCR_REDIS_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"Java 17 or newer\. pip install"):
        find_java()
    with pytest.raises(StackError, match="no redis-server"):
        find_redis_server()
    (tmp_path / "home" / "bin").mkdir(parents=True)
    for place, version in (("home/bin/java", "11.0.2"), ("java", "17.0.15")):
        (tmp_path / place).write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        (tmp_path / place).chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))  # too old, so the one on the path it is
    assert find_java() == tmp_path / "java"
    (tmp_path / "java").unlink()
    with pytest.raises(StackError, match=r"found only .*home/bin/java \(Java 11\)"):
        find_java()
