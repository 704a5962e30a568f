"""TCP ports of the loopback interface."""

from __future__ import annotations

import random
import socket

from infra.local.errors import StackError

HOST = "127.0.0.1"

#: Below the ports that systems give to outgoing connections (Linux from 32768, macOS from 49152): one of those may be
#: the near end of somebody's connection when its server comes back and wants it again.
UNUSED = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now. Connections that linger after a close don't count as taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def any_free(count: int) -> list[int]:
    """So many different free ports, taken at random from `UNUSED`."""
    found: list[int] = []
    for port in random.sample(UNUSED, len(UNUSED)):
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    raise StackError(f"fewer than {count} free ports between {UNUSED.start} and {UNUSED.stop}")


def answers(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False
