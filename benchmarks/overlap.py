"""Does a run go at min(e·P, T)? Fleets larger than the machine, through the real protocol, against the old way.

    python benchmarks/overlap.py --json runs/bench/overlap.json

Every producer is a process of `penstock produce --backend paced`, every rank one of `penstock.consumer.paced`: work is
a sleep, all else is real. P is the images/s of the whole fleet, T that of all ranks, e the uses of a group. A cell is
measured in steady state, once all producers have come and what they made meanwhile is used up. What counts as achieved
is the smaller of what was trained on and e times what came, so that nothing is gained from what lay in a buffer. Beside
it the old way: the same engine writes as many images to a disk, and only then a DataLoader feeds as many steps.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import psutil
from harness import BENCHMARKS, BIN, BenchmarkError, Processes
from rich.console import Console
from rich.table import Table

TRAINER_IMAGES_PER_S = 1280.0
"""T of all cells: two cores do the wire's work of it, so that what is measured is the overlap; and of 64 producers each
makes several groups in the measured time."""
NUM_IMAGES, SIDE, GROUPS_PER_STEP = 4, 32, 16
IMAGES_PER_STEP = NUM_IMAGES * GROUPS_PER_STEP
MEASURED_S = 12.0
WARMUP_S = {"fed": 3.0, "starved": 9.0}
"""Where the trainer is the faster, what lay in the window must be used up first."""
CELL_S = 180.0
"""The longest that one cell may take."""
RATIOS, FLEETS = (0.25, 0.5, 1.0, 1.1, 2.0), (1, 4, 16, 64)
OLD_WAY_FLEET = 4
"""The old way does not depend on the fleet's size at one P: it is run once for each P/T and e."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One configuration."""

    ratio: float
    """P/T."""
    producers: int
    ranks: int = 1
    policy: str = "fixed"
    reuse: int = 1

    @property
    def bound(self) -> float:
        """min(e·P, T) in images/s."""
        return TRAINER_IMAGES_PER_S * min(1.0, self.reuse * self.ratio)

    @property
    def is_fed(self) -> bool:
        """Whether the trainer must not wait."""
        return self.reuse * self.ratio >= 1.1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cell came to."""

    achieved: float
    """Share of min(e·P, T)."""
    images_per_s: float
    wait: float
    """Share of its time that a rank waited, the mean over the ranks."""
    images_trained: int
    seconds: float
    cpu: float
    """Share of the machine's cores that were busy, median over the measured time."""
    faults: int
    """Tickets expired or hedged, messages refused."""


FULL = (
    *(Cell(ratio=ratio, producers=producers) for producers in FLEETS for ratio in RATIOS),
    *(Cell(ratio=ratio, producers=4, reuse=2) for ratio in (0.25, 0.55, 1.0)),
    *(Cell(ratio=0.25, producers=16, policy=policy, reuse=4) for policy in ("fixed", "adaptive")),
    Cell(ratio=0.5, producers=16, policy="adaptive", reuse=4),
    *(Cell(ratio=1.1, producers=16, ranks=ranks) for ranks in (2, 4, 8)),
    Cell(ratio=0.5, producers=16, ranks=8),
)
QUICK = (Cell(ratio=1.1, producers=2), Cell(ratio=0.25, producers=4, reuse=2))


def measure(cell: Cell, measured_s: float, folder: Path) -> Outcome:
    """Run one cell. Raises BenchmarkError where a process fails or takes too long."""
    folder.mkdir()
    processes = Processes(folder)
    base = f"tcp://127.0.0.1:{harness.free_ports(cell.ranks)}"
    try:
        for number in range(cell.producers):
            processes.start(f"producer-{number}", [str(BIN / "penstock"), "produce", *_producer(cell, base, number)])
        flags = _rank(cell, measured_s, base, folder)
        started = [
            processes.start(
                f"rank-{rank}",
                [sys.executable, "-m", "penstock.consumer.paced", *flags],
                env={"RANK": str(rank), "WORLD_SIZE": str(cell.ranks)},
            )
            for rank in range(cell.ranks)
        ]
        with _CpuWatch() as cpu:
            for rank, process in enumerate(started):
                processes.wait(f"rank-{rank}", process, CELL_S)
        reports = [json.loads(processes.log(f"rank-{rank}").splitlines()[-1]) for rank in range(cell.ranks)]
    finally:
        processes.kill()
    return _outcome(cell, reports, cpu.median(measured_s))


def _producer(cell: Cell, endpoint: str, number: int) -> list[str]:
    flags: dict[str, Any] = {
        "backend": "paced",
        "paced-images-per-s": cell.ratio * TRAINER_IMAGES_PER_S / cell.producers,
        "batch-images": NUM_IMAGES,
        "batch-wait-s": 0,
        "credit-groups": 2,
        "connect": endpoint,
        "name": f"paced-{number}",
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def _rank(cell: Cell, measured_s: float, endpoint: str, folder: Path) -> list[str]:
    step_s = IMAGES_PER_STEP / TRAINER_IMAGES_PER_S
    # In the time of the steps that min(e·P, T) allows.
    paced_s = step_s * TRAINER_IMAGES_PER_S / cell.bound
    warmup = round(WARMUP_S["fed" if cell.is_fed else "starved"] / paced_s) + 1
    flags: dict[str, Any] = {
        "images-per-s": TRAINER_IMAGES_PER_S / cell.ranks,
        "max-steps": warmup + max(1, round(measured_s / paced_s)),
        "first-measured-step": warmup,
        "min-producers": cell.producers,
        "groups-per-step": GROUPS_PER_STEP,
        "run-dir": folder / "run",
        "stream.endpoint": endpoint,
        "stream.window-groups": max(6 * GROUPS_PER_STEP, 3 * cell.producers),
        "generator.images-per-group": NUM_IMAGES,
        "generator.height": SIDE,
        "generator.width": SIDE,
        "reservoir.policy": cell.policy,
        "reservoir.reuse": cell.reuse,
        "reservoir.capacity-groups": 2 * GROUPS_PER_STEP * cell.reuse,
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def _outcome(cell: Cell, reports: Sequence[dict[str, Any]], cpu: float) -> Outcome:
    trained = sum(report["images_per_s"] for report in reports)
    came = sum(report["images_received"] / report["seconds"] for report in reports)
    achieved = min(trained, cell.reuse * came)
    return Outcome(
        achieved=achieved / cell.bound,
        images_per_s=achieved,
        wait=statistics.mean(report["wait_s"] / report["seconds"] for report in reports),
        images_trained=sum(report["images_trained"] for report in reports),
        seconds=statistics.mean(report["seconds"] for report in reports),
        cpu=cpu,
        faults=sum(report["expired"] + report["hedged"] + report["rejected"] for report in reports),
    )


class _CpuWatch:
    """Looks every half second at how busy the machine is. A context manager."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def median(self, last_s: float) -> float:
        """Over so many seconds before the end."""
        end = self._seen[-1][0]
        return statistics.median(share for at, share in self._seen if end - at <= last_s)

    def _watch(self) -> None:
        psutil.cpu_percent()
        while not self._over.wait(0.5):
            self._seen.append((time.monotonic(), psutil.cpu_percent() / 100))

    def __enter__(self) -> "_CpuWatch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def streaming_s(cell: Cell, outcome: Outcome) -> float:
    """Seconds for the cell's images from an empty reservoir: until the first batch is there, and then as measured."""
    return IMAGES_PER_STEP / (cell.ratio * TRAINER_IMAGES_PER_S) + outcome.images_trained / outcome.images_per_s


def old_way(cell: Cell, images_trained: int, folder: Path) -> float:
    """Seconds for the same work one after the other: as many images made and written, then as many steps.

    Without the starts of the processes, as the cell is measured without those of its own.
    """
    folder.mkdir()
    num_steps = max(1, images_trained // IMAGES_PER_STEP)
    num_groups = max(GROUPS_PER_STEP, num_steps * GROUPS_PER_STEP // cell.reuse)
    processes, images = Processes(folder), str(folder / "images")
    try:
        generators = []
        for number in range(OLD_WAY_FLEET):
            share = {
                "folder": images,
                "images_per_s": cell.ratio * TRAINER_IMAGES_PER_S / OLD_WAY_FLEET,
                "first": number,
                "stride": OLD_WAY_FLEET,
                "num_groups": num_groups,
                "num_images": NUM_IMAGES,
                "side": SIDE,
            }
            generators.append(processes.start(f"generator-{number}", _baseline(share), cwd=BENCHMARKS))
        for number, process in enumerate(generators):
            processes.wait(f"generator-{number}", process, CELL_S)
        training = {
            "folder": images,
            "images_per_s": TRAINER_IMAGES_PER_S,
            "groups_per_step": GROUPS_PER_STEP,
            "num_steps": num_steps,
        }
        processes.finish("trainer", _baseline(training), CELL_S, cwd=BENCHMARKS)
    finally:
        processes.kill()
    generating_s = max(_seconds(processes, f"generator-{number}") for number in range(OLD_WAY_FLEET))
    return generating_s + _seconds(processes, "trainer")


def _seconds(processes: Processes, name: str) -> float:
    return float(processes.log(name).splitlines()[-1])


def _baseline(plan: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "baselines.paced_disk", json.dumps(plan)]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each cell."""
    table = Table(title="Achieved of min(e·P, T), in steady state; old way: times as long for the same work")
    for column in ("P/T", "fleet", "ranks", "reuse", "img/s", "achieved", "wait", "CPU", "faults", "old way"):
        table.add_column(column, justify="right")
    for row in rows:
        cell = Cell(**row["cell"])
        reuse = f"≤ {cell.reuse}" if cell.policy == "adaptive" else str(cell.reuse)
        old = f"{row['speedup']:.2f} ×" if row["speedup"] else ""
        figures = [f"{row['images_per_s']:.0f}", f"{row['achieved']:.3f}", f"{row['wait']:.1%}", f"{row['cpu']:.0%}"]
        place = [f"{cell.ratio:g}", str(cell.producers), str(cell.ranks), reuse]
        table.add_row(*place, *figures, str(row["faults"]), old)
    Console().print(table)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, object]:
    """The figures that the bars are about, and all cells."""
    waits = [row["wait"] for row in rows if Cell(**row["cell"]).is_fed]
    speedups = [row["speedup"] for row in rows if row["speedup"]]
    return {
        "worst_achieved": min(row["achieved"] for row in rows),
        "worst_wait_when_fed": max(waits, default=None),
        "median_speedup_over_old_way": statistics.median(speedups) if speedups else None,
        "highest_cpu": max(row["cpu"] for row in rows),
        "cells": list(rows),
    }


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="two small cells in half a minute")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"measured in each cell ({MEASURED_S:g}; quick: 4)")
    options = parser.parse_args()
    measured_s = options.seconds or (4.0 if options.quick else MEASURED_S)
    if measured_s <= 0:
        raise BenchmarkError(f"--seconds must be > 0, got {measured_s:g}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="penstock-overlap-") as name:
        for number, cell in enumerate(QUICK if options.quick else FULL):
            print(f"{number + 1}: {cell}", file=sys.stderr)
            outcome = measure(cell, measured_s, Path(name) / f"cell-{number}")
            row = {"cell": asdict(cell), **asdict(outcome), "old_way_s": None, "speedup": None}
            if cell.producers == OLD_WAY_FLEET:
                row["old_way_s"] = old_way(cell, outcome.images_trained, Path(name) / f"old-{number}")
                row["speedup"] = row["old_way_s"] / streaming_s(cell, outcome)
            rows.append(row)
    print_table(rows)
    harness.write_json(options.json, summarise(rows), ("pyzmq", "torch"))
    return 0


if __name__ == "__main__":
    harness.run(main)
