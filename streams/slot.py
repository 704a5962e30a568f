"""A worker's slot: the place that one worker at a time takes, known by its id, on this machine and in the group."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)


class SlotTakenError(RuntimeError):
    """Another worker with the same id runs on this machine."""


class Slot:
    """The folder of a worker slot, and its static group membership. A context manager: held while the worker runs."""

    def __init__(self, data_dir: Path, group: str, worker_id: str) -> None:
        self.folder = data_dir / f"worker-{worker_id}"
        self.group = group
        self.worker_id = worker_id
        #: static membership: a killed worker that comes back under this name gets its partitions back at once
        self.instance_id = f"{group}-worker-{worker_id}"
        self._file: TextIO | None = None

    def __enter__(self) -> Slot:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / "lock", "w")  # held until __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SlotTakenError(
                f"worker {self.worker_id} is already running in {self.folder}; give this one another --worker-id"
            ) from None
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def leave_group(self, bootstrap_servers: str) -> None:
        """Give the partitions back at once. A static member that just stops keeps them until its session ends."""
        from kafka import KafkaAdminClient
        from kafka.admin import MemberToRemove

        try:
            admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
            admin.remove_group_members(self.group, [MemberToRemove(group_instance_id=self.instance_id)])
            admin.close()
        except Exception as error:
            log.info("could not leave the group (%s); the partitions move when the session ends", error)
