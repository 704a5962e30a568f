"""Freed memory is kept for the next batch, and not given back to the system.

A step of a language model on a CPU makes hundreds of tensors of many megabytes, and lets go of them. glibc takes each
from the system (`mmap`) and gives it back, and the system writes zeros over every page of it before the next use.
"""

from __future__ import annotations

import ctypes
import sys

# of `mallopt` in glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
#: free bytes at the end of the heap from which on it shrinks: an int's largest
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """For the rest of the process; whether it was possible. Other allocators than glibc's are left as they are."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
