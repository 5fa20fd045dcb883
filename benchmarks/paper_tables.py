"""The shapes of StableRep's results in the toy world: which objective, which guidance, how many images a prompt.

    python benchmarks/paper_tables.py --full --json runs/bench/paper_tables.json

(a) StableRep against SimCLR, random weights and pixels; (b) StableRep+ against StableRep and CLIP; (c) guidance 1 to 8
for StableRep and SimCLR; (d) 1 to 8 images a prompt; (e) captions as classes (StableRep, SynCLR) against supervision by
digit. Without `--full` only (a). docs/science.md says what the papers found and how this was set.

Every arm is `penstock train --config demo` with as many images made, optimizer steps and rows a step, in ticket order:
arms of one guidance and m train on the same bits. Measured on real handwriting, test scans that nothing was chosen by.
Means over the seeds with 95% t-intervals; differences seed by seed. Two trainings run at a time, one thread each; what
`--work` holds already is not trained again, so an interrupted call goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from harness import BenchmarkError
from paper import measures
from paper.arms import Arm, Budget, units
from paper.figure import draw
from paper.runs import Training, train_all
from paper.verdict import PIXELS, RANDOM_INIT, summarise
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "numpy", "scipy")


def collect(trainings: Sequence[Sequence[Training]], work: Path) -> dict[str, Any]:
    """Each measure's rows with intervals, differences and bars, of trainings that are done, [arms][seeds]."""
    rows = {by_seed[0].arm.name: [measures.of_training(training) for training in by_seed] for by_seed in trainings}
    rows[RANDOM_INIT] = [measures.of_random_init(training) for training in trainings[0]]
    rows[PIXELS] = [measures.of_pixels(work)] * len(trainings[0])
    names = rows[PIXELS][0]
    return {name: summarise({arm: [seed[name] for seed in seeds] for arm, seeds in rows.items()}) for name in names}


def print_tables(measured: dict[str, Any]) -> None:
    """Every arm with its interval, and every bar with what was measured."""
    table = Table(title="Accuracy on held-out handwriting: mean over the seeds ± half of the 95% interval")
    for column in ("", *measured):
        table.add_column(column, justify="right" if column else "left")
    for name in next(iter(measured.values()))["arms"]:
        table.add_row(name, *(_with_interval(by["arms"][name]) for by in measured.values()))
    Console().print(table)
    for measure, by in measured.items():
        for bar in by["bars"]:
            value = bar["measured"] if "interval" not in bar else f"{bar['measured']:+.1%}"
            doubt = ", within the luck of the seeds" if bar.get("clear") is False else ""
            print(f"{measure} ({bar['table']}) {bar['bar']}: {value}, {'met' if bar['met'] else 'MISSED'}{doubt}")


def _with_interval(figures: dict[str, Any]) -> str:
    bounds = figures["interval"]
    return f"{figures['mean']:.1%}" + (f" ± {100 * (bounds[1] - figures['mean']):.1f}" if bounds else "")


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    options = _options()
    budget, seeds = Budget(num_images=options.images, num_steps=options.steps), range(options.seeds)
    by_unit, work = units(full=options.full), options.work.absolute()
    usage = harness.CpuUsage()
    seconds = train_all([[Training(arm, seed, budget, work) for arm in unit] for seed in seeds for unit in by_unit])
    others = usage.others() if seconds else None
    if others is not None:
        print(f"{seconds:.0f} s of training; other processes took {others:.0%} of the CPU time", file=sys.stderr)
    trainings = [[Training(arm, seed, budget, work) for seed in seeds] for unit in by_unit for arm in unit]
    measured = collect(trainings, work)
    print_tables(measured)
    arms = [by_seed[0].arm for by_seed in trainings]
    times = {"seconds_of_this_call": seconds, "others_cpu": others}
    times["trainer_seconds"] = sum(training.summary["seconds"] for by_seed in trainings for training in by_seed)
    result = {"measured": measured, "settings": settings(arms, budget, seeds), **times}
    harness.write_json(options.json, result, PACKAGES)
    if options.figure:
        draw(options.figure, measured)
    return 0


def _options() -> argparse.Namespace:
    """What the user asks for. Raises BenchmarkError."""
    parser = harness.parser(__doc__)
    parser.add_argument("--full", action="store_true", help="all tables, an hour and more; else (a) alone, ten minutes")
    parser.add_argument("--quick", action="store_false", dest="full", help="(a) alone: the default")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (3)")
    parser.add_argument("--images", type=int, default=Budget().num_images, metavar="N", help="trained on in each arm")
    parser.add_argument("--steps", type=int, default=Budget().num_steps, metavar="N", help="of each training")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/paper_tables"), help="where the trainings lie")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw the tables there, as PNG; with --full")
    options = parser.parse_args()
    if options.seeds < 1 or options.steps < 1:
        raise BenchmarkError("--seeds must be >= 1, --steps >= 1")
    if options.images < 1 or options.images % Budget().rows_per_step:
        raise BenchmarkError(f"--images must be a multiple of {Budget().rows_per_step}, got {options.images}")
    if options.figure and not options.full:
        raise BenchmarkError("--figure draws all tables: give --full too")
    return options


def settings(arms: Sequence[Arm], budget: Budget, seeds: Sequence[int]) -> dict[str, Any]:
    """What was equal in all arms, and what was not."""
    return {
        "seeds": list(seeds),
        "images_generated": budget.num_generated,
        "images_trained_on": budget.num_images,
        "optimizer_steps": budget.num_steps,
        "rows_per_step": budget.rows_per_step,
        "rows_per_image": budget.uses_per_image,
        "arms": {
            arm.name: {
                "prompts": budget.num_images // arm.images_per_group,
                "prompts_per_step": arm.groups_per_step(budget),
                "images_per_step": arm.groups_per_step(budget) * arm.images_per_group,
                "views_per_image": arm.num_views,
                "base_lr": arm.base_lr,
                "teacher_decay": arm.teacher_decay if arm.objective == "synclr" else None,
            }
            for arm in arms
        },
    }


if __name__ == "__main__":
    harness.run(main)
