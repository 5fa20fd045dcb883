"""The most memory that a call holds at once, by the allocator's own record."""

import itertools
from collections.abc import Callable

import torch


def peak_bytes(call: Callable[[], object]) -> int:
    """Beside what lay there before; on the CPU."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    steps = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate(num_bytes for _, num_bytes in steps))
