"""What images that do not show their prompt cost, and how much of it the filter brings back.

    python benchmarks/mismatch.py --json runs/bench/mismatch.json

Three trainings a seed, the same but for their images: *clean*, of the shipped tiny model; *mislabelled*, of a producer
that draws another digit in 20% of the images (`baselines/mislabelling.py`: a hook of this benchmark, in no product);
and *filtered*, of that producer with the toy world's scorer behind it. kNN on real handwriting, test scans that nothing
was chosen by. First the scorer alone: how well it tells wrong digits from right ones on renders of test scans.
"""

import argparse
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table

from penstock.telemetry.seed_interval import seed_interval

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scikit-learn")
SHARE = 0.2
"""Of the images that show another digit."""
RUN_S = 1800.0
"""The longest that one training may take, its images among it, on a busy machine."""
NEVER = 1_000_000_000
ROWS_PER_STEP, IMAGES_PER_GROUP = 256, 4
LOOKAHEAD_IMAGES = 128


@dataclass(frozen=True, slots=True)
class Arm:
    """Whose images are trained on."""

    name: str
    share: float
    """Of the images that are mislabelled."""
    filters: bool


ARMS = (Arm("clean", 0.0, False), Arm("mislabelled", SHARE, False), Arm("filtered", SHARE, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is equal in all arms of a seed."""

    num_images: int
    """Images that are trained on; all of them from the first step on."""
    num_steps: int
    """Optimizer steps, of 256 images each."""
    objective: str
    min_score: float
    """Of the filter: images that score less are made anew."""

    def flags(self, arm: Arm, seed: int) -> list[str]:
        """The settings, as flags of `penstock train`."""
        settings: dict[str, object] = {
            "config": "demo",
            "seed": seed,
            "order": "ticket",
            "max-steps": self.num_steps,
            "groups-per-step": ROWS_PER_STEP // IMAGES_PER_GROUP,
            "objective.name": self.objective,
            "generator.images-per-group": IMAGES_PER_GROUP,
            "stream.window-groups": LOOKAHEAD_IMAGES // IMAGES_PER_GROUP,
            "reservoir.capacity-groups": self.num_images // IMAGES_PER_GROUP,
            # More than a group can get: the images stay the same to the end.
            "reservoir.reuse": self.num_steps,
            "evaluation.every-steps": NEVER,
            "checkpoint-every-steps": NEVER,
            "fleet.local-producers": 0,
        }
        if arm.filters:
            settings["filter.min-score"] = self.min_score
        return [f"--{name}={value}" for name, value in settings.items()]


def train(setting: Setting, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """One training beside a producer of its own. Returns its summary. Raises BenchmarkError."""
    name = f"{arm.name}-{seed}"
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    plan = json.dumps({"endpoint": endpoint, "share": arm.share, "filters": arm.filters})
    run_dir = folder / name
    logs = folder / f"{name}-logs"
    logs.mkdir()
    processes = harness.Processes(logs)
    try:
        processes.start("producer", [sys.executable, "-m", "baselines.mislabelling", plan], cwd=harness.BENCHMARKS)
        command = [sys.executable, "-m", "penstock.consumer", *setting.flags(arm, seed)]
        command += ["--stream.endpoint", endpoint, "--run-dir", str(run_dir)]
        processes.finish("trainer", command, RUN_S)
    finally:
        processes.kill()
    return dict(json.loads((run_dir / "summary.json").read_text()))


def train_all(setting: Setting, seeds: Sequence[int], num_slots: int) -> dict[str, list[dict[str, Any]]]:
    """The summaries of every arm, seed by seed. Raises BenchmarkError with the first that fails."""
    started, said = time.monotonic(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="penstock-mismatch-") as name, ThreadPoolExecutor(num_slots) as pool:

        def do(arm: Arm, seed: int) -> dict[str, Any]:
            summary = train(setting, arm, seed, Path(name))
            with said:
                knn = summary["knn"]["after"]
                seconds = time.monotonic() - started
                print(f"{seconds:6.0f} s  seed {seed}  {arm.name}: kNN {knn:.1%}", file=sys.stderr, flush=True)
            return summary

        jobs = {(arm.name, seed): pool.submit(do, arm, seed) for seed in seeds for arm in ARMS}
        try:
            return {arm.name: [jobs[arm.name, seed].result() for seed in seeds] for arm in ARMS}
        except BenchmarkError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def summarise(summaries: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The figures: kNN of each arm, what share of the loss came back, what was rejected of each concept."""
    knn = {name: [summary["knn"]["after"] for summary in of_arm] for name, of_arm in summaries.items()}
    means = {name: statistics.fmean(values) for name, values in knn.items()}
    cost, gain = means["clean"] - means["mislabelled"], means["filtered"] - means["mislabelled"]
    rejected: dict[str, Counter[str]] = defaultdict(Counter)
    for summary in summaries["filtered"]:
        for concept, counts in summary["filter"]["by_concept"].items():
            rejected[concept].update(counts)
    return {
        **{f"knn_{name}": mean for name, mean in means.items()},
        "recovered": gain / cost if cost > 0 else None,
        "rejected_by_concept": {concept: dict(counts) for concept, counts in sorted(rejected.items())},
        "seeds": {name: {"knn": values, "interval": seed_interval(values).bounds} for name, values in knn.items()},
    }


def judge_scorer(min_score: float, num_images: int = 2000) -> dict[str, Any]:
    """The scorer alone, on renders of test scans with their own captions and with those of another digit."""
    from sklearn.metrics import roc_auc_score

    from penstock.producer.scorer import open_scorer
    from penstock.toyworld.captions import caption, draw_caption
    from penstock.toyworld.render import INKS, PAPERS, draw_styles, render
    from penstock.toyworld.scans import load_split

    rng, scans = np.random.default_rng(0), load_split("test")
    rows = rng.integers(len(scans), size=num_images)
    styles, inks, papers = draw_styles(num_images, rng), list(INKS), list(PAPERS)
    images = render(scans.images[rows], rng, styles)
    own = [
        draw_caption(rng, int(digit), inks[ink], papers[paper])
        for digit, ink, paper in zip(scans.labels[rows], styles.ink, styles.paper, strict=True)
    ]
    others = [caption((one.digit + int(rng.integers(1, 10))) % 10, one.ink, one.paper) for one in own]
    scorer = open_scorer("toyworld", "cpu", "float32")
    scorer.load()
    right, wrong = scorer.score(images, [one.text for one in own]), scorer.score(images, others)
    return {
        "roc_auc": float(roc_auc_score([1] * num_images + [0] * num_images, [*right, *wrong])),
        "min_score": min_score,
        "matches_rejected": float((right < min_score).mean()),
        "mismatches_rejected": float((wrong < min_score).mean()),
    }


def print_figures(result: Mapping[str, Any]) -> None:
    """The figures, as tables."""
    scorer = result["scorer"]
    print(
        f"scorer: ROC AUC {scorer['roc_auc']:.3f}; at {scorer['min_score']:g} it rejects "
        f"{scorer['mismatches_rejected']:.1%} of mismatches and {scorer['matches_rejected']:.1%} of matches"
    )
    table = Table("images", "kNN", "seed by seed")
    for name, row in result["seeds"].items():
        table.add_row(name, f"{result[f'knn_{name}']:.1%}", ", ".join(f"{value:.1%}" for value in row["knn"]))
    Console().print(table)
    share = "nothing was lost" if result["recovered"] is None else f"{result['recovered']:.0%} of the loss recovered"
    by_concept = (f"{name} {row['rejected'] / row['made']:.0%}" for name, row in result["rejected_by_concept"].items())
    print(f"{share}; of the images made, rejected by concept: {', '.join(by_concept)}")


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    options = _options()
    setting = Setting(
        num_images=options.images,
        num_steps=options.steps,
        objective=options.objective,
        min_score=options.min_score,
    )
    usage = harness.CpuUsage()
    result: dict[str, Any] = {"scorer": judge_scorer(options.min_score)}
    result |= summarise(train_all(setting, range(options.seeds), options.slots))
    result |= {"settings": {"mislabelled": SHARE, **vars(options)}, "others_cpu": usage.others()}
    result["settings"].pop("json")
    print_figures(result)
    harness.write_json(options.json, result, PACKAGES)
    return 0


def _options() -> argparse.Namespace:
    """What the user asks for. Raises BenchmarkError."""
    from penstock.producer.scorer import TOYWORLD_MIN_SCORE

    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (3)")
    parser.add_argument("--images", type=int, default=2048, metavar="N", help="trained on in each arm (2048)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of each training (300)")
    parser.add_argument("--objective", default="stablerep", metavar="NAME", help="of each training (stablerep)")
    parser.add_argument("--min-score", type=float, default=TOYWORLD_MIN_SCORE, metavar="S", help="of the filter")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="trainings at a time, two processes each (2)")
    options = parser.parse_args()
    if options.seeds < 1 or options.steps < 1 or options.slots < 1:
        raise BenchmarkError("--seeds, --steps and --slots must be >= 1")
    if options.images < ROWS_PER_STEP or options.images % ROWS_PER_STEP:
        raise BenchmarkError(f"--images must be a multiple of {ROWS_PER_STEP}, got {options.images}")
    return options


def _free_port() -> int:
    """A port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    harness.run(main)
