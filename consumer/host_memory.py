"""Lets the allocator keep the memory of groups that have left, for those that come.

Every group lands in memory that ZeroMQ takes from malloc. glibc maps and unmaps blocks of that size, or trims its heap
after each, so that the kernel clears every page anew: half of the time that a rank spent on a group of 0.8 MB
(`benchmarks/transport.py`). What is kept was in use a moment ago.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""
_MMAP_THRESHOLD = 32 << 20
"""The largest that glibc takes: larger blocks are mapped as before."""
_MAX_KEPT = 1 << 30


def keep_freed_memory(nbytes: int) -> bool:
    """Keep up to `nbytes` (at most 1 GiB) of freed memory at the top of each of malloc's arenas.

    For the whole process, torch's blocks below 32 MiB included: what a process has needed at a time it keeps. Returns
    False where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Each alone makes it worse: set by hand, either ends glibc's own adjustment of the other.
    trims = mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(min(nbytes, _MAX_KEPT)))
    maps = mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(_MMAP_THRESHOLD))
    return bool(trims and maps)
