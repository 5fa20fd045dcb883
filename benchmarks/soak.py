"""Is a rank's memory flat? 200,000 groups of paced streaming, and the slope of its resident memory.

    python benchmarks/soak.py --json runs/bench/soak.json
    python benchmarks/soak.py --side 256 --json runs/bench/soak-256.json
    python benchmarks/soak.py --side 256 --codec jpeg --groups 50000 --json runs/bench/soak-jpeg.json

The rank is `penstock.consumer.paced` with its real reservoir and batches, the producers are paced, both so fast that
the protocol's own work bounds them. The rank looks at its memory every so many steps; the slope is that of least
squares over the second half of the run: in the first the allocator's water marks rise. Flat means that it takes 20
million groups or more to grow by 1 GB.
"""

import json
import sys
import tempfile
from math import ceil
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import BIN, BenchmarkError, Processes
from rich.console import Console
from rich.table import Table

from penstock.protocol.image_codec import JPEG, RAW

NUM_IMAGES, GROUPS_PER_STEP, REUSE, PRODUCERS = 4, 64, 2, 2
RESERVOIR_BYTES = 256 << 20
FLAT_BYTES_PER_1000_GROUPS = 50_000
"""1 GB in 20 million groups."""
SAMPLES = 400
GROUPS_PER_S = 150.0
"""The least pace at which the benchmark waits for its end."""


def soak(num_groups: int, side: int, codec: str, folder: Path) -> dict[str, Any]:
    """Stream so many groups of images of `side` pixels; the rank's report.

    Raises BenchmarkError where that takes too long or fails.
    """
    processes = Processes(folder)
    num_steps = ceil(num_groups * REUSE / GROUPS_PER_STEP)
    endpoint = f"ipc://{folder / 'rank'}"
    rank_flags: dict[str, Any] = {
        "images-per-s": 1e9,
        "max-steps": num_steps,
        "first-measured-step": num_steps // 4,
        "sample-every-steps": max(1, num_steps // SAMPLES),
        "min-producers": PRODUCERS,
        "groups-per-step": GROUPS_PER_STEP,
        "run-dir": folder / "run",
        "stream.endpoint": endpoint,
        "stream.window-groups": 256,
        "generator.images-per-group": NUM_IMAGES,
        "generator.height": side,
        "generator.width": side,
        "reservoir.reuse": REUSE,
        "reservoir.capacity-groups": min(1024, RESERVOIR_BYTES // (NUM_IMAGES * side * side * 3)),
    }
    producer_flags: dict[str, Any] = {"backend": "paced", "paced-images-per-s": 1e9, "batch-wait-s": 0}
    producer_flags |= {"connect": endpoint, "codec": codec}
    try:
        rank = processes.start("rank", [sys.executable, "-m", "penstock.consumer.paced", *_flags(rank_flags)])
        for number in range(PRODUCERS):
            name = f"producer-{number}"
            command = [str(BIN / "penstock"), "produce", *_flags({**producer_flags, "name": name})]
            processes.start(name, command)
        processes.wait("rank", rank, 60 + num_groups / GROUPS_PER_S)
        return dict(json.loads(processes.log("rank").splitlines()[-1]))
    finally:
        processes.kill()


def _flags(values: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def summarise(report: dict[str, Any], side: int) -> dict[str, Any]:
    """Resident memory at the quarters of the run, and its slope over the second half."""
    groups, rss = np.array(report["samples"], dtype=np.float64).T
    late = groups >= groups[-1] / 2
    slope = float(np.polyfit(groups[late], rss[late], 1)[0]) * 1000
    at = [float(np.interp(groups[-1] * quarter / 4, groups, rss)) / 1e6 for quarter in range(1, 5)]
    groups_per_s = report["images_received"] / NUM_IMAGES / report["seconds"]
    return {
        "groups": report["groups"],
        "slope_bytes_per_1000_groups": slope,
        "slope_mb_per_hour": slope / 1000 * groups_per_s * 3600 / 1e6,
        "flat": abs(slope) <= FLAT_BYTES_PER_1000_GROUPS,
        "rss_mb_at_quarters": at,
        "rss_growth_mb": at[-1] - at[0],
        "groups_per_s": groups_per_s,
        "seconds": report["seconds"],
        "group_bytes": NUM_IMAGES * side * side * 3,
        "faults": report["expired"] + report["hedged"] + report["rejected"],
    }


def print_table(result: dict[str, Any]) -> None:
    """What was seen."""
    table = Table(
        title=f"Resident memory of a rank over {result['groups']:,} groups of {result['group_bytes']:,} bytes"
    )
    table.add_column("")
    table.add_column("", justify="right")
    for quarter, megabytes in enumerate(result["rss_mb_at_quarters"], start=1):
        table.add_row(f"after {quarter}/4", f"{megabytes:.1f} MB")
    slope, pace = result["slope_bytes_per_1000_groups"], result["groups_per_s"]
    table.add_row("slope over the second half", f"{slope:+,.0f} B / 1,000 groups")
    table.add_row("the same", f"{result['slope_mb_per_hour']:+,.1f} MB / hour at {pace:,.0f} groups/s")
    table.add_row("flat", "yes" if result["flat"] else "NO")
    Console().print(table)


def main() -> int:
    """Run the benchmark. Returns the exit status: 0 where the memory is flat."""
    parser = harness.parser(__doc__)
    parser.add_argument("--groups", type=int, default=200_000, metavar="N", help="groups to stream (200000)")
    parser.add_argument("--side", type=int, default=32, metavar="PX", help="height and width of the images (32)")
    parser.add_argument("--codec", choices=(RAW, JPEG), default=RAW, help="how the images travel (raw)")
    options = parser.parse_args()
    if options.groups < 4 * GROUPS_PER_STEP:
        raise BenchmarkError(f"--groups must be >= {4 * GROUPS_PER_STEP}, got {options.groups}")
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as folder:
        result = summarise(soak(options.groups, options.side, options.codec, Path(folder)), options.side)
    print_table(result)
    harness.write_json(options.json, result, ("pyzmq", "torch"))
    return 0 if result["flat"] else 1


if __name__ == "__main__":
    harness.run(main)
