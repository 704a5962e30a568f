"""A server process that outlives the command that started it, known by a pid file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_S = 0.05


class Daemon:
    """One detached process.

    The pid file also holds the process's start, so that a number given to another process after a crash or a reboot is
    never taken for ours, nor stopped.
    """

    def __init__(self, name: str, pid_file: Path) -> None:
        self.name = name
        self.pid_file = pid_file
        self._child: subprocess.Popen[bytes] | None = None

    def pid(self) -> int | None:
        """The number of our living process, or None."""
        try:
            known = json.loads(self.pid_file.read_text())
            pid, start = int(known["pid"]), str(known["start"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if self._child is not None:
            self._child.poll()  # a dead child stays in the process table until its parent has asked
        return pid if _start_of(pid) == start else None

    def start(self, command: Sequence[str | Path], *, out: Path, append: bool, env: Mapping[str, str]) -> None:
        """Start in a session of its own, with standard output and error into the file `out`."""
        with out.open("ab" if append else "wb") as log:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.pid_file.parent,
                env=dict(env),
                start_new_session=True,
            )
        part = self.pid_file.with_suffix(".part")
        part.write_text(json.dumps({"pid": self._child.pid, "start": _start_of(self._child.pid)}))
        part.replace(self.pid_file)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `ready()`; False as soon as the process is dead, or after the time-out."""
        end = time.monotonic() + timeout_s
        while self.pid() is not None:
            if ready():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return False

    def stop(self, timeout_s: float) -> bool:
        """End the process: asked first, killed after the time-out. False if it had to be killed."""
        pid = self.pid()
        if pid is None:
            return True
        _signal(pid, signal.SIGTERM)
        graceful = self._wait_gone(timeout_s)
        if not graceful:
            self.kill()
        return graceful

    def kill(self) -> None:
        """End the process at once, as a crash would (SIGKILL), and wait until it is gone."""
        pid = self.pid()
        if pid is not None:
            _signal(pid, signal.SIGKILL)
            self._wait_gone(30)

    def _wait_gone(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while self.pid() is not None:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        self.pid_file.unlink(missing_ok=True)
        return True


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself just now
        os.kill(pid, number)


def _start_of(pid: int) -> str | None:
    """What tells this process from any other with the same number, before or after; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold anything
    # The first thread of a killed process is done before the others, which hold its ports and files a moment longer.
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{fields[19]}"


def _start_by_ps(pid: int) -> str | None:
    """As `_start_of`, where there is no /proc (macOS)."""
    said = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.split()
    return " ".join(said[1:]) if said and not said[0].startswith("Z") else None
