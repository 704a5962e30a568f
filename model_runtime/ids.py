"""Digests of ids, shared by the state, the scorer and the trainer."""

from __future__ import annotations

import zlib
from functools import lru_cache


@lru_cache(maxsize=1 << 18)
def video_digest(video_id: str) -> int:
    """32 bits (CRC-32 of the UTF-8) that stand for a video id in the seen and hated sets of a user's state.

    A collision leaves one video out of a user's list, no more.
    """
    return zlib.crc32(video_id.encode())
