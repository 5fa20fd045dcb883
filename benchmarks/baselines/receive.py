"""Receives groups over one baseline and measures it: `python -m baselines.receive JSON`, from `benchmarks/`.

The receiver process of a side. Its JSON names the side, the shapes, the seconds for each, and the file for the figures.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from baselines.sender import Get, Images, Shape, ready_groups
from penstock.consumer.host_memory import keep_freed_memory

MEMORY_KEPT = 1 << 30


def measure(get: Get, expected: list[Images], seconds: float) -> dict[str, float]:
    """Rate and CPU time, once one rotation has come bit for bit and has warmed everything up.

    Returns groups, seconds, gb_per_s (1e9 bytes) and cpu_us_per_image of all processes of both sides.
    """
    for number, array in enumerate(expected):
        if not np.array_equal(get(), array):
            raise ValueError(f"group {number} is not the one that was sent")
    _take(get, seconds / 4)
    cpu_s = _cpu_s()
    num_groups, taken_s = _take(get, seconds)
    cpu_s = _cpu_s() - cpu_s
    return {
        "groups": num_groups,
        "seconds": taken_s,
        "gb_per_s": num_groups * expected[0].nbytes / taken_s / 1e9,
        "cpu_us_per_image": cpu_s * 1e6 / (num_groups * len(expected[0])),
    }


def _take(get: Get, seconds: float) -> tuple[int, float]:
    """Receive for so long; the groups that came, and how long it took."""
    num_groups, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        get()
        num_groups += 1
    return num_groups, time.perf_counter() - start


def _cpu_s() -> float:
    """CPU time so far of this process and of all below it, which for Ray are many."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


def main(plan: dict[str, Any]) -> None:
    """Measure every shape in turn. Freed memory is kept as Penstock's stream keeps it: no side pays for fresh pages."""
    keep_freed_memory(MEMORY_KEPT)
    side = importlib.import_module(f"baselines.over_{plan['side']}")
    figures = []
    for m, height, width, channels in plan["shapes"]:
        shape: Shape = (m, height, width, channels)
        with side.groups(shape) as get:
            figures.append(measure(get, ready_groups(shape), plan["seconds"]))
    Path(plan["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
