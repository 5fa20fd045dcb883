"""Forward and backward of the multi-positive loss on the CPU: Penstock against StableRep's own arithmetic and autograd.

    python benchmarks/loss.py --json runs/bench/loss.json

N rows of 256 columns in float32, four to a label, one thread. Every measurement is a process of its own, so that memory
is the loss's alone: the most that it held beside the features, by the kernel's count. All sides run in turn in each
round; a time is the median over the rounds, a ratio the median of the rounds' own ratios. `public` is the arithmetic of
StableRep's code (syn-rep-learn), which keeps its masks from batch to batch: they count as its memory, not as its time.
Of the N, that where Penstock does worse stands at the top: `speedup_vs_reference` is how many times as fast as `public`
it is there. The published code is the reference that is meant; the float64 backend of that name is not timed. The
losses and the gradients, element by element, of all sides must agree, or there are no figures.
"""

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import harness
import numpy as np
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table

SIDES = {"penstock": "Penstock", "public": "StableRep's arithmetic", "plain": "plain autograd"}
SIZES, DIM = (4096, 8192), 256
PROCESS_S = 120.0
"""The longest that one measurement may take."""
TOLERANCE = 1e-5
"""Of the loss, and of the norm of the gradients' difference beside their own: for float32 sums in another order."""

Figures = dict[int, dict[str, list[dict[str, float]]]]
"""By N and side, a row for each round."""


def measure(sizes: Sequence[int], rounds: int, repeats: int, folder: Path) -> Figures:
    """Run every side at every N in every round. Raises BenchmarkError where one fails, or computes something else."""
    processes = harness.Processes(folder)
    figures: Figures = {num_rows: {side: [] for side in SIDES} for num_rows in sizes}
    try:
        for number in range(rounds):
            for num_rows in sizes:
                for side in SIDES:
                    print(f"round {number + 1} of {rounds}: N = {num_rows}, {SIDES[side]}", file=sys.stderr)
                    name = f"{side}-{num_rows}-{number}"
                    path = folder / f"{name}.json"
                    plan = {"side": side, "num_rows": num_rows, "dim": DIM, "repeats": repeats, "figures": str(path)}
                    plan["gradient"] = str(_gradient_path(folder, side))
                    command = [sys.executable, "-m", "baselines.contrastive", json.dumps(plan)]
                    processes.finish(name, command, PROCESS_S, cwd=harness.BENCHMARKS)
                    figures[num_rows][side].append(json.loads(path.read_text()))
                losses = {side: rows[-1]["loss"] for side, rows in figures[num_rows].items()}
                _must_agree(num_rows, losses, {side: np.load(_gradient_path(folder, side)) for side in SIDES})
    finally:
        processes.kill()
    return figures


def _gradient_path(folder: Path, side: str) -> Path:
    """Where a side leaves its last gradient."""
    return folder / f"{side}.npy"


def _must_agree(num_rows: int, losses: dict[str, float], gradients: dict[str, np.ndarray]) -> None:
    expected, norm = losses["plain"], float(np.linalg.norm(gradients["plain"]))
    for side, loss in losses.items():
        if not math.isclose(loss, expected, rel_tol=TOLERANCE):
            raise BenchmarkError(f"loss at N = {num_rows} is {loss} by {side} but {expected} by plain")
        off = float(np.linalg.norm(gradients[side] - gradients["plain"])) / norm
        if not off <= TOLERANCE:
            raise BenchmarkError(
                f"gradient at N = {num_rows} by {side} is off by {off:.1e} of plain's, over {TOLERANCE}"
            )


def summarise(figures: Figures) -> dict[str, object]:
    """Medians for each N and side; Penstock's speed and memory as ratios to the public arithmetic's (`reference`)."""
    speedups, over_plain, memory, rows = [], [], [], []
    for num_rows, by_side in figures.items():
        speedups.append(_ratio(by_side["public"], by_side["penstock"], "seconds"))
        over_plain.append(_ratio(by_side["plain"], by_side["penstock"], "seconds"))
        memory.append(_ratio(by_side["penstock"], by_side["public"], "peak_bytes"))
        sides = {
            side: {key: statistics.median(row[key] for row in of_side) for key in ("seconds", "peak_bytes")}
            for side, of_side in by_side.items()
        }
        ratios = {"speedup_vs_reference": speedups[-1], "speedup_vs_plain": over_plain[-1]}
        rows.append({"num_rows": num_rows, **ratios, "peak_memory_ratio": memory[-1], "sides": sides})
    return {
        "speedup_vs_reference": min(speedups),
        "speedup_vs_plain": min(over_plain),
        "peak_memory_ratio": max(memory),
        "dim": DIM,
        "rows": rows,
        "rounds": len(figures[min(figures)]["penstock"]),
    }


def _ratio(above: Sequence[dict[str, float]], below: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(over[key] / under[key] for over, under in zip(above, below, strict=True))


def print_table(figures: Figures) -> None:
    """A row for each N and side."""
    table = Table(title=f"Multi-positive loss, forward and backward, D = {DIM}, float32, one CPU thread")
    for column in ("N", "", "seconds", "peak MB", "Penstock is … times as fast", "and takes … of the memory"):
        table.add_column(column, justify="left" if column == "" else "right")
    for num_rows, by_side in figures.items():
        ours = by_side["penstock"]
        for side, rows in by_side.items():
            seconds, peak = (statistics.median(row[key] for row in rows) for key in ("seconds", "peak_bytes"))
            cells = [str(num_rows), SIDES[side], f"{seconds:.3f}", f"{peak / 1e6:.0f}"]
            if side != "penstock":
                cells += [f"{_ratio(rows, ours, 'seconds'):.2f}", f"{_ratio(ours, rows, 'peak_bytes'):.3f}"]
            table.add_row(*cells)
        table.add_section()
    Console().print(table)


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    sizes = ",".join(map(str, SIZES))
    parser.add_argument("--sizes", default=sizes, metavar="N,…", help=f"multiples of four ({sizes})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often all sides run (5)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="timed runs in a process (2)")
    options = parser.parse_args()
    try:
        chosen = [int(size) for size in options.sizes.split(",")]
    except ValueError:
        chosen = []
    if not chosen or any(size < 8 or size % 4 for size in chosen) or options.rounds < 1 or options.repeats < 1:
        raise BenchmarkError("--sizes must be multiples of four from 8 on, --rounds and --repeats >= 1")
    with tempfile.TemporaryDirectory(prefix="penstock-loss-") as folder:
        figures = measure(chosen, options.rounds, options.repeats, Path(folder))
    print_table(figures)
    harness.write_json(options.json, summarise(figures), ("torch", "numpy"))
    return 0


if __name__ == "__main__":
    harness.run(main)
