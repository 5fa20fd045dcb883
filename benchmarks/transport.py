"""Groups per second from one process to another on this machine: Penstock's wire against raw ZeroMQ and other ways.

    make bench-setup && python benchmarks/transport.py --json runs/bench/transport.json

Each side is a sender process and a receiver process that move the same ready-made groups (4×256² and 4×512², uint8);
the receiver ends with arrays that it could train on. Penstock's side is the real thing: tickets, leases, a checksum on
both sides, validation, acknowledgements. Raw ZeroMQ (DEALER to ROUTER, zero-copy) is the floor: it checks nothing. All
sides run in turn in every round. A rate is the median over the rounds, a ratio the median of the rounds' own ratios. At
the top of the figures stand the ratios of the size where Penstock does worse; above 1, Penstock is faster. Penstock and
raw ZeroMQ run with keys, too; what these cost Penstock stands apart.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from baselines import SIDES
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table

SHAPES = ((4, 256, 256, 3), (4, 512, 512, 3))
NEEDS = {"grpc": "grpc", "ray": "ray"}
"""Modules that a side needs besides what Penstock itself does."""
START_S = 60.0
"""The longest that a side may take beside its measured time."""
PACKAGES = ("pyzmq", "msgpack", "isal", "grpcio", "ray", "numpy")

Figures = dict[str, dict[str, list[dict[str, float]]]]
"""By side and shape, a row for each round."""


def measure(sides: Sequence[str], seconds: float, rounds: int, folder: Path) -> Figures:
    """Run every side in every round. Raises BenchmarkError where one hangs or fails."""
    processes = harness.Processes(folder)
    figures: Figures = {side: {_name(shape): [] for shape in SHAPES} for side in sides}
    try:
        for number in range(rounds):
            for side in sides:
                print(f"round {number + 1} of {rounds}: {SIDES[side]}", file=sys.stderr)
                path = folder / f"{side}-{number}.json"
                plan = {"side": side, "shapes": SHAPES, "seconds": seconds, "figures": str(path)}
                command = [sys.executable, "-m", "baselines.receive", json.dumps(plan)]
                allowed_s = START_S + 4 * seconds * len(SHAPES)
                processes.finish(f"{side}-{number}", command, allowed_s, cwd=harness.BENCHMARKS)
                for shape, row in zip(SHAPES, json.loads(path.read_text()), strict=True):
                    figures[side][_name(shape)].append(row)
    finally:
        processes.kill()
    return figures


def _name(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def summarise(figures: Figures) -> dict[str, Any]:
    """Medians of each side and size, and Penstock's ratio to every other side."""
    sizes: dict[str, dict[str, dict[str, float]]] = {}
    for shape in map(_name, SHAPES):
        ours = figures["penstock"][shape]
        sizes[shape] = {}
        for side, by_shape in figures.items():
            rows = by_shape[shape]
            gb_per_s = statistics.median(row["gb_per_s"] for row in rows)
            sizes[shape][side] = {
                "gb_per_s": gb_per_s,
                "images_per_s": gb_per_s * 1e9 / image_bytes(shape),
                "cpu_us_per_image": statistics.median(row["cpu_us_per_image"] for row in rows),
                "ratio": statistics.median(
                    mine["gb_per_s"] / row["gb_per_s"] for mine, row in zip(ours, rows, strict=True)
                ),
            }
    worst: dict[str, Any] = {
        f"ratio_to_{side}": min(by_side[side]["ratio"] for by_side in sizes.values())
        for side in figures
        if side != "penstock"
    }
    ours_by_size = [by_side["penstock"] for by_side in sizes.values()]
    worst["gb_per_s"] = min(row["gb_per_s"] for row in ours_by_size)
    worst["cpu_us_per_image"] = max(row["cpu_us_per_image"] for row in ours_by_size)
    if "penstock_keys" in figures:
        worst["keys"] = {shape: cost_of_keys(by_shape) for shape, by_shape in _by_shape(figures).items()}
    return worst | {"sizes": sizes, "rounds": len(figures["penstock"][_name(SHAPES[0])])}


def image_bytes(shape: str) -> int:
    """Of one image of a shape as it is named in the figures."""
    _, height, width, channels = map(int, shape.split("x"))
    return height * width * channels


def _by_shape(figures: Figures) -> dict[str, dict[str, list[dict[str, float]]]]:
    return {shape: {side: of_side[shape] for side, of_side in figures.items()} for shape in map(_name, SHAPES)}


def cost_of_keys(by_side: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """Penstock's throughput with keys as a share of that without, and CPU time more; medians over the rounds."""
    pairs = list(zip(by_side["penstock_keys"], by_side["penstock"], strict=True))
    more = [on["cpu_us_per_image"] - off["cpu_us_per_image"] for on, off in pairs]
    return {
        "throughput_ratio": statistics.median(on["gb_per_s"] / off["gb_per_s"] for on, off in pairs),
        "cpu_us_per_image_more": statistics.median(more),
    }


def print_table(result: dict[str, Any]) -> None:
    """A row for each side and size."""
    table = Table(title="Groups of uint8 images from one process to another")
    for column in ("", "group", "GB/s", "images/s", "CPU µs an image", "Penstock is … times as fast"):
        table.add_column(column, justify="left" if column in ("", "group") else "right")
    for shape, by_side in result["sizes"].items():
        for side, row in by_side.items():
            ratio = "" if side == "penstock" else f"{row['ratio']:.2f}"
            rates = f"{row['gb_per_s']:.2f}", f"{row['images_per_s']:,.0f}", f"{row['cpu_us_per_image']:.0f}"
            table.add_row(SIDES[side], shape, *rates, ratio)
        table.add_section()
    Console().print(table)
    for shape, keys in result.get("keys", {}).items():
        ratio, more = keys["throughput_ratio"], keys["cpu_us_per_image_more"]
        print(f"{shape}: with keys {ratio:.0%} of the throughput without, {more:+,.0f} µs of CPU time an image")


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often all sides run (5)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each side, size and round (2)")
    parser.add_argument("--sides", default=",".join(SIDES), metavar="NAME,…", help=f"of {', '.join(SIDES)} (all)")
    options = parser.parse_args()
    sides = options.sides.split(",")
    if unknown := [side for side in sides if side not in SIDES]:
        raise BenchmarkError(f"there is no side {unknown[0]!r}; choose from {', '.join(SIDES)}")
    if "penstock" not in sides or options.rounds < 1 or options.seconds <= 0:
        raise BenchmarkError("penstock must be among the sides, --rounds >= 1, --seconds > 0")
    if missing := [NEEDS[side] for side in sides if side in NEEDS and find_spec(NEEDS[side]) is None]:
        raise BenchmarkError(f"{' and '.join(missing)} is not installed; run `make bench-setup`, or choose --sides")
    with tempfile.TemporaryDirectory(prefix="penstock-transport-") as folder:
        result = summarise(measure(sides, options.seconds, options.rounds, Path(folder)))
    print_table(result)
    harness.write_json(options.json, result, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
