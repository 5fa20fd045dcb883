"""What balance does for the tail: a list of captions with ten digits 1 : 50, drawn as it is, by its roots, or equally.

    python benchmarks/long_tail.py --json runs/bench/long_tail.json

Every arm is `penstock train` on the real tiny generator with as many images, optimizer steps and rows a step; arms
differ in `prompts.balance`, and in nothing else. Which digits are rare is drawn anew for each seed, as digits are not
equally hard. Measured on rendered test scans, where all digits are equally frequent: accuracy by kNN and linear probe
of the worst digit, of the three rarest, and the mean of all; means over the seeds with 95% t-intervals, differences
seed by seed. Bar: the worst digit gains 10 points from `uniform`. Trainings that lie in `--work` are not done again.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import BenchmarkError
from paper import measures
from paper.arms import STABLEREP, SUPERVISED, Arm, Budget
from paper.runs import Training, train_all
from paper.verdict import interval
from rich.console import Console
from rich.table import Table

from penstock.toyworld.captions import DIGIT_WORDS, draw_caption

PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "numpy")
BALANCES = ("natural", "sqrt", "uniform")
NUM_HEAD, IMBALANCE = 200, 50
"""Captions of the commonest digit, and how many times those of the rarest; geometric in between."""
NUM_STEPS, NUM_QUICK_STEPS = 900, 600
"""Optimizer steps, the demo's. A third of them is too few to learn hard digits even where all are equally frequent."""
NUM_RARE = 3
BAR = 0.10
"""By how much the worst digit's accuracy is to gain from `uniform`."""
TASK = "toyworld, rendered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced(Arm):
    """An arm of the paper's tables whose captions come from a list."""

    balance: str
    lists: Path
    """Folder of the lists of captions, one a seed."""

    @property
    def name(self) -> str:
        """What identifies the arm."""
        return f"{self.objective} {self.balance}"

    def flags(self, budget: Budget, seed: int) -> list[str]:
        """The settings, as flags of `penstock train`."""
        prompts = [f"--prompts.source={caption_list(self.lists, seed)}", f"--prompts.balance={self.balance}"]
        # Of a dataclass with slots `super()` does not find its class.
        return [*Arm.flags(self, budget, seed), *prompts]


def caption_list(folder: Path, seed: int) -> Path:
    """Where a seed's captions lie."""
    return folder / f"captions-{seed}.txt"


def digit_counts(seed: int) -> dict[str, int]:
    """Captions of each digit, the commonest first."""
    ranks = np.arange(len(DIGIT_WORDS))
    counts = np.round(NUM_HEAD * IMBALANCE ** (-ranks / ranks[-1])).astype(int)
    order = np.random.default_rng([seed, 1]).permutation(len(DIGIT_WORDS))
    return {DIGIT_WORDS[digit]: int(count) for digit, count in zip(order, counts, strict=True)}


def write_list(folder: Path, seed: int) -> None:
    """Write a seed's captions, CONCEPT<tab>CAPTION."""
    rng = np.random.default_rng([seed, 2])
    folder.mkdir(parents=True, exist_ok=True)
    with caption_list(folder, seed).open("w", encoding="utf-8") as file:
        for word, count in digit_counts(seed).items():
            for _ in range(count):
                file.write(f"{word}\t{draw_caption(rng, DIGIT_WORDS.index(word)).text}\n")


def measure(training: Training) -> dict[str, dict[str, float]]:
    """By measure: accuracy of the worst digit, of the rarest, and the mean. Raises BenchmarkError."""
    measures.of_training(training)  # writes the report
    (task,) = [task for task in _report(training)["tasks"] if task["name"] == TASK]
    rare = list(digit_counts(training.seed))[-NUM_RARE:]
    figures = {}
    for name in measures.MEASURES:
        by_digit = {part["name"]: part["accuracy"] for part in task[name]["classes"]}
        by_word = {DIGIT_WORDS[int(digit)] if digit.isdigit() else digit: by_digit[digit] for digit in by_digit}
        figures[name] = {
            "worst": min(by_word.values()),
            "rare": statistics.fmean(by_word[word] for word in rare),
            "mean": statistics.fmean(by_word.values()),
        }
    return figures


def _report(training: Training) -> dict[str, Any]:
    return dict(json.loads((training.run_dir / "report.json").read_text()))


def collect(trainings: Mapping[str, Sequence[Training]]) -> dict[str, Any]:
    """Rows with intervals, differences and bars: by measure, then by the name of the arm."""
    figures = {name: [measure(training) for training in by_seed] for name, by_seed in trainings.items()}
    measured: dict[str, Any] = {}
    for kind in measures.MEASURES:
        rows = {
            name: {part: [seed[kind][part] for seed in seeds] for part in ("worst", "rare", "mean")}
            for name, seeds in figures.items()
        }
        arms = {name: {part: _mean(values) for part, values in row.items()} for name, row in rows.items()}
        measured[kind] = {"arms": arms, "gains": _gains(rows)}
    return measured


def _gains(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """What each balance adds to `natural`, seed by seed."""
    gains = {}
    for name, row in rows.items():
        objective, _, balance = name.partition(" ")
        if balance == "natural":
            continue
        pairs = {part: zip(row[part], rows[f"{objective} natural"][part], strict=True) for part in row}
        gains[name] = {part: _mean([ours - theirs for ours, theirs in pair]) for part, pair in pairs.items()}
        if balance == "uniform":
            gain = gains[name]["worst"]
            bounds = gain["interval"]
            gains[name]["bar"] = {"at_least": BAR, "met": gain["mean"] >= BAR}
            gains[name]["bar"]["clear"] = None if bounds is None else bounds[0] >= BAR or bounds[1] < BAR
    return gains


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "interval": interval(values), "seeds": list(values)}


def print_tables(measured: Mapping[str, Any]) -> None:
    """Every arm with its intervals, and every bar with what was measured."""
    columns = {"worst": "worst digit", "rare": f"{NUM_RARE} rarest", "mean": "mean"}
    for kind, by in measured.items():
        table = Table(title=f"{kind}: mean over the seeds ± half of the 95% interval")
        for column in ("", *columns.values()):
            table.add_column(column, justify="right" if column else "left")
        for name, parts in by["arms"].items():
            table.add_row(name, *(_shown(parts[part]) for part in columns))
        for name, parts in by["gains"].items():
            table.add_row(f"{name} - natural", *(_shown(parts[part]) for part in columns))
        Console().print(table)
        for name, parts in by["gains"].items():
            if bar := parts.get("bar"):
                doubt = ", within the luck of the seeds" if bar["clear"] is False else ""
                print(f"{kind}, {name}: {parts['worst']['mean']:+.1%}, {'met' if bar['met'] else 'MISSED'}{doubt}")


def _shown(figures: Mapping[str, Any]) -> str:
    bounds = figures["interval"]
    return f"{figures['mean']:.1%}" + (f" ± {100 * (bounds[1] - figures['mean']):.1f}" if bounds else "")


def shares(by_seed: Sequence[Training]) -> list[float]:
    """Share of the groups that each digit had, the commonest of the list first: mean over the seeds."""
    shares = []
    for training in by_seed:
        groups = training.summary["concepts"]["groups"]
        shares.append([groups.get(word, 0) / sum(groups.values()) for word in digit_counts(training.seed)])
    return [float(share) for share in np.mean(shares, axis=0)]


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    options = _options()
    work = options.work.absolute()
    budget = Budget(num_images=options.images, num_steps=options.steps)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed in seeds:
        write_list(work, seed)
    kinds = [STABLEREP] if options.quick else [STABLEREP, SUPERVISED]
    balances = ("natural", "uniform") if options.quick else BALANCES
    # Those of one balance share their images.
    units = [[_arm(kind, balance, work) for kind in kinds] for balance in balances]
    usage = harness.CpuUsage()
    seconds = train_all([[Training(arm, seed, budget, work) for arm in unit] for seed in seeds for unit in units])
    others = usage.others() if seconds else None
    if others is not None:
        print(f"{seconds:.0f} s of training; other processes took {others:.0%} of the CPU time", file=sys.stderr)
    arms = [unit[place] for place in range(len(kinds)) for unit in units]
    trainings = {arm.name: [Training(arm, seed, budget, work) for seed in seeds] for arm in arms}
    measured = collect(trainings)
    print_tables(measured)
    settings = {
        "seeds": list(seeds),
        "captions": list(digit_counts(0).values()),
        "images_trained_on": budget.num_images,
        "optimizer_steps": budget.num_steps,
        "rows_per_step": budget.rows_per_step,
        "shares": {name: shares(by_seed) for name, by_seed in trainings.items()},
    }
    result = {"measured": measured, "settings": settings, "seconds_of_this_call": seconds, "others_cpu": others}
    harness.write_json(options.json, result, PACKAGES)
    return 0


def _arm(kind: Arm, balance: str, work: Path) -> Balanced:
    return Balanced(objective=kind.objective, base_lr=kind.base_lr, balance=balance, lists=work)


def _options() -> argparse.Namespace:
    """What the user asks for. Raises BenchmarkError."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="natural and uniform by StableRep, one seed")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds (3; 1 with --quick)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (0)")
    parser.add_argument("--images", type=int, default=Budget().num_images, metavar="N", help="trained on in each arm")
    parser.add_argument(
        "--steps", type=int, metavar="N", help=f"of each training ({NUM_STEPS}; {NUM_QUICK_STEPS} with --quick)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/bench/long_tail"), help="where the trainings lie")
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 1 if options.quick else 3
    if options.steps is None:
        options.steps = NUM_QUICK_STEPS if options.quick else NUM_STEPS
    if options.seeds < 1 or options.steps < 1 or options.first_seed < 0:
        raise BenchmarkError("--seeds must be >= 1, --steps >= 1, --first-seed >= 0")
    if options.images < 1 or options.images % Budget().rows_per_step:
        raise BenchmarkError(f"--images must be a multiple of {Budget().rows_per_step}, got {options.images}")
    return options


if __name__ == "__main__":
    harness.run(main)
