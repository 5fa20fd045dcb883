"""How far does a fleet grow? The real state machines under a simulated clock and network, checked against processes.

    python benchmarks/scale.py --json runs/bench/scale.json
    python benchmarks/scale.py --full --json runs/bench/scale-full.json

Three parts. What one rank's machine costs with 100, 1,000 and 4,096 producers, in CPU time and memory. Fleets of up to
1,000 producers and 64 ranks (with `--full` 10,000 and 512) that lose 5% of their producers a minute, as share of what
the producers that were there could have made; `benchmarks/simulation/` says what is simulated and what is left out. And
1 to 16 real paced producers with a real rank, beside what the simulation foretells of them.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import harness
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table
from simulation import costs as message_costs
from simulation import one_rank, reality
from simulation.churn import Trace, losses
from simulation.costs import Costs
from simulation.one_rank import MachineCosts, RankCost
from simulation.setting import Setting
from simulation.world import World

from penstock.protocol.limits import MAX_PRODUCERS

LOST_PER_MINUTE = 0.05
REAL_FLEETS, REAL_S = (1, 2, 4, 8, 16), 12.0
LARGE = 2000
"""Links from which on the simulated machines' ticks come every 0.25 s, not every 0.05: slower to notice, never faster.
A rank's CPU time is that of the programs' ticks."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One simulated fleet."""

    producers: int
    ranks: int
    trace: Trace = "poisson"
    order: Literal["ticket", "arrival"] = "arrival"
    max_ranks: int = 0
    window_batches: float = 2.5
    warmup_s: float = 30.0
    measured_s: float = 60.0

    @property
    def setting(self) -> Setting:
        """Of its simulation."""
        return Setting(
            producers=self.producers,
            ranks=self.ranks,
            order=self.order,
            max_ranks=self.max_ranks,
            batches_per_producer=self.window_batches,
            tick_s=0.25 if self.producers * self.ranks > LARGE else 0.05,
        )


BAR = Cell(producers=1000, ranks=64, warmup_s=20.0, measured_s=30.0)
"""With everybody's defaults, but for the window: every producer serves 16 ranks."""
SMALL = (
    Cell(producers=16, ranks=1),
    Cell(producers=250, ranks=16, trace="none"),
    Cell(producers=250, ranks=16),
    Cell(producers=250, ranks=16, order="ticket"),
    Cell(producers=250, ranks=16, order="ticket", window_batches=6.0),
    Cell(producers=250, ranks=16, trace="bursts"),
    Cell(producers=250, ranks=16, trace="cut"),
)
DEFAULT = (BAR, *SMALL)
FULL = (
    Cell(producers=10_000, ranks=512, warmup_s=20.0, measured_s=30.0),
    Cell(producers=1000, ranks=64, max_ranks=64),
    Cell(producers=1000, ranks=64),
    Cell(producers=1000, ranks=64, trace="bursts"),
    *DEFAULT,
)
QUICK = (Cell(producers=24, ranks=4, warmup_s=15.0, measured_s=20.0),)


def simulate(cell: Cell, costs: Costs, machine: MachineCosts) -> dict[str, Any]:
    """Run one cell."""
    begun = time.monotonic()
    end_s = cell.warmup_s + cell.measured_s
    # Losses begin soon, so that what is measured is the steady state with them.
    lost = losses(cell.trace, cell.producers, LOST_PER_MINUTE, 10.0, end_s, seed=1)
    outcome = World(cell.setting, costs, machine).run(lost, cell.warmup_s, cell.measured_s)
    took_s = time.monotonic() - begun
    return {"cell": asdict(cell), **asdict(outcome), "achieved": outcome.achieved, "took_s": took_s}


def check(costs: Costs, fleets: Sequence[int], measured_s: float, folder: Path) -> list[dict[str, float]]:
    """Real processes beside what the simulation foretells of them."""
    rows = []
    for producers in fleets:
        foretold = reality.simulate(producers, costs, 10 * measured_s)
        print(f"{producers} real producers: {foretold:.0f} images/s are foretold", file=sys.stderr)
        seen = reality.rehearse(producers, foretold, measured_s, folder / str(producers))
        offered = producers * reality.IMAGES_PER_S
        rows.append({"producers": producers, "offered": offered, "foretold": foretold, "seen": seen})
    return rows


def print_tables(
    ranks: Sequence[RankCost], cells: Sequence[dict[str, Any]], checks: Sequence[dict[str, float]]
) -> None:
    """Everything that was measured."""
    console = Console(width=150)
    table = Table(title="One rank's state machine")
    for column in ("producers", "a tick, ms", "64 tickets, ms", "idle producers, core", "memory, MB"):
        table.add_column(column, justify="right")
    for row in ranks:
        memory = row.producers * row.bytes_per_producer / 1e6
        figures = [f"{row.tick_s * 1e3:.2f}", f"{row.hand_out_s * 1e3:.2f}", f"{row.idle_cpu:.1%}", f"{memory:.1f}"]
        table.add_row(f"{row.producers:,}", *figures)
    console.print(table)
    table = Table(title=f"Simulated fleets; of the producers {LOST_PER_MINUTE:.0%} are lost a minute, but for `none`")
    columns = (
        "producers",
        "ranks",
        "serve",
        "window",
        "order",
        "losses",
        "lost",
        "of ideal",
        "recovery, s",
        "messages/s",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("order", "losses") else "right")
    for column in ("MB/s", "core", "took, s"):
        table.add_column(column, justify="right")
    for row in cells:
        cell = row["cell"]
        recovery = "/".join(f"{seconds:.1f}" for seconds in row["recovery_s"] or ())
        fleet = [
            f"{cell['producers']:,}",
            str(cell["ranks"]),
            str(min(cell["max_ranks"] or 16, cell["ranks"])),
            f"{cell['window_batches']:g}",
        ]
        wire = [f"{row['messages_per_s']:,.0f}", f"{row['bytes_per_s'] / 1e6:.1f}", f"{row['busiest_cpu']:.1%}"]
        kind = [cell["order"], cell["trace"], str(row["lost"]), f"{row['achieved']:.3f}", recovery]
        table.add_row(*fleet, *kind, *wire, f"{row['took_s']:.0f}")
    console.print(table)
    if not checks:
        return
    table = Table(title="Real paced processes, and what the simulation foretells, images/s")
    for column in ("producers", "offered", "foretold", "seen", "seen / foretold"):
        table.add_column(column, justify="right")
    for check in checks:
        figures = [f"{check[name]:.1f}" for name in ("offered", "foretold", "seen")]
        table.add_row(f"{check['producers']}", *figures, f"{check['seen'] / check['foretold']:.3f}")
    console.print(table)


def summarise(
    costs: Costs, ranks: Sequence[RankCost], cells: Sequence[dict[str, Any]], checks: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """The figures that the bars are about, and all others."""
    bar = next((row["achieved"] for row in cells if row["cell"] == asdict(BAR)), None)
    return {
        "achieved_of_ideal": bar,
        "worst_achieved": min(row["achieved"] for row in cells),
        "largest_error": max((abs(row["seen"] / row["foretold"] - 1) for row in checks), default=None),
        "costs": asdict(costs),
        "one_rank": [asdict(row) for row in ranks],
        "cells": list(cells),
        "checks": list(checks),
    }


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="one small fleet, in seconds")
    which.add_argument("--full", action="store_true", help="10,000 producers and 512 ranks too: hours")
    real = ",".join(map(str, REAL_FLEETS))
    parser.add_argument("--real", default=real, metavar="N,…", help=f"fleets of real processes ({real}; empty: none)")
    parser.add_argument("--real-seconds", type=float, default=REAL_S, metavar="S", help=f"of each ({REAL_S:g})")
    options = parser.parse_args()
    try:
        fleets = [int(number) for number in options.real.split(",") if number]
    except ValueError as error:
        raise BenchmarkError(f"--real must be numbers with commas between them, got {options.real!r}") from error
    if min(fleets, default=1) < 1 or options.real_seconds <= 0:
        raise BenchmarkError("--real must be numbers >= 1, --real-seconds > 0")
    kind = Setting(producers=1, ranks=1)
    costs = message_costs.measure(kind.images_per_group, kind.group_bytes)
    sizes = (10, 100) if options.quick else (100, 1000, MAX_PRODUCERS)
    ranks = [one_rank.measure(producers, 64, costs) for producers in sizes]
    cells = QUICK if options.quick else FULL if options.full else DEFAULT
    print(f"{len(cells)} fleets are simulated", file=sys.stderr)
    # One on each core, the longest first.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(simulate, cells, repeat(costs), repeat(one_rank.machine_costs(ranks))))
    with tempfile.TemporaryDirectory(prefix="penstock-scale-") as folder:
        checks = check(costs, fleets, options.real_seconds, Path(folder))
    print_tables(ranks, rows, checks)
    harness.write_json(options.json, summarise(costs, ranks, rows, checks), ("pyzmq", "msgpack"))
    return 0


if __name__ == "__main__":
    harness.run(main)
