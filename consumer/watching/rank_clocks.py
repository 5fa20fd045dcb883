"""How far the ranks' clocks are apart, from barriers: nobody leaves one before everybody has come to it.

If rank 0 leaves a barrier at a and rank r had come to it at b, each on its own clock, then rank 0's clock is ahead of
rank r's by at most a - b; and likewise the other way round. Of several barriers the tightest bounds count. This needs
nothing of the backend but that it can wait, and is the bound that NTP rests on.
"""

import time
from pathlib import Path

import torch
from accelerate import Accelerator

from penstock.consumer.ranks import gather_strings

_BARRIERS = 16
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Processes of one boot of a machine share its monotonic clock."""


def compare_clocks(accelerator: Accelerator) -> tuple[int, int]:
    """Rank 0's monotonic clock minus this rank's, and how wrong that may be; ns. All ranks call it together."""
    boots = gather_strings(accelerator, _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "")
    if boots[0] and len({*boots}) == 1:
        return 0, 0
    passed: list[tuple[int, int]] = []
    for _ in range(_BARRIERS):
        came_ns = time.monotonic_ns()
        accelerator.wait_for_everyone()
        passed.append((came_ns, time.monotonic_ns()))
    mine = torch.tensor(passed, dtype=torch.int64, device=accelerator.device)
    everyone: torch.Tensor = accelerator.gather(mine[None])
    times = everyone.tolist()
    return difference(times[0], times[accelerator.process_index])


def difference(first: list[list[int]], other: list[list[int]]) -> tuple[int, int]:
    """The first's clock minus the other's, and how wrong that may be, from when each came to and left each barrier."""
    at_most = min(left - came for (_, left), (came, _) in zip(first, other, strict=True))
    at_least = max(came - left for (came, _), (_, left) in zip(first, other, strict=True))
    return (at_least + at_most) // 2, max(0, (at_most - at_least + 1) // 2)
