"""Digests of ids and texts, shared by the state, the scorer and the trainer."""

from __future__ import annotations

import zlib
from functools import lru_cache


@lru_cache(maxsize=1 << 18)
def video_digest(video_id: str) -> int:
    """32 bits (CRC-32 of the UTF-8) that stand for a video id in the seen and hated sets of a user's state.

    A collision leaves one video out of a user's list, no more.
    """
    return zlib.crc32(video_id.encode())


def text_digest(text: str) -> int:
    """32 bits (CRC-32 of the UTF-8) that tell a title or a comment from what it said before.

    After a collision an item keeps the vector of its former text, no more.
    """
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
