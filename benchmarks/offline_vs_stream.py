"""Training while images are made, against making all of them first and training from files: time, bytes, accuracy.

    python benchmarks/offline_vs_stream.py --json runs/bench/offline_vs_stream.json

Both ways have two cores, the demo's settings, the same tickets, as many images made and as many optimizer steps.

- Stream: `penstock train --config demo` with its own two producers.
- Offline, as StableRep's published code does it (arXiv 2306.00984): two producers write PNG files; when all are there a
  DataLoader feeds the same trainer's steps in shuffled epochs. What can favour it does: processes stay, torch is loaded
  while images are made, augmentation runs in the loader's worker, the files are still in the page cache.

Seconds count from the start of the first process to the end of the last optimizer step; those of the stream also hold
its first evaluation and its last checkpoint. Both ways run in turn for every seed; medians over the seeds, and the
median of the seeds' own ratios. kNN is that of `summary.json`, on held-out handwriting: means with 95% t-intervals over
the seeds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from baselines.offline import CLAIMS, IMAGES, train_config
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table

from penstock.telemetry.seed_interval import seed_interval
from penstock.telemetry.summary import Summary

RUN_S = 300.0
"""The longest that one way may take for one seed, beside a second a step."""
QUIET = 0.1
"""Share of the CPU time that others may take before times say little."""
MARGIN = 0.05
"""No worse means that the 95% interval of the difference in kNN lies above minus this."""
WAYS = ("stream", "offline")
NEVER = 1_000_000_000
PRODUCERS = ("producer-0", "producer-1")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".tar"}
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\x93NUMPY")
PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "pillow", "numpy")

Row = dict[str, float]
"""The figures of one way for one seed."""


def image_bytes(folder: Path, *but: Path) -> int:
    """Bytes of the image files below `folder`, told by suffix or by their first bytes, apart from `but`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path not in but]
    return sum(path.stat().st_size for path in files if path.suffix.lower() in SUFFIXES or _is_image(path))


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(MAGIC) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")


def flags_of(seed: int, steps: int) -> list[str]:
    """The settings of both ways, as flags of `penstock train`."""
    settings = {
        "config": "demo",
        "seed": seed,
        "max-steps": steps,
        "evaluation.every-steps": NEVER,
        "checkpoint-every-steps": NEVER,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def stream(flags: Sequence[str], folder: Path, allowed_s: float) -> Row:
    """A run of `penstock train` with its own producers."""
    processes, run_dir = harness.Processes(folder), folder / "run"
    started, usage = time.time(), harness.CpuUsage()
    command = [str(harness.BIN / "penstock"), "train", *flags, "--run-dir", str(run_dir)]
    processes.finish("stream", command, allowed_s)
    others = usage.others()
    summary = Summary.read(run_dir / "summary.json")
    # The last file of the checkpoint that follows the last step.
    ended = (run_dir / "checkpoint" / "state.json").stat().st_mtime
    if summary.knn.after is None:
        raise BenchmarkError("the stream's run has no kNN")
    return {
        "seconds": ended - started,
        "others_cpu": others,
        "summary_seconds": summary.seconds,
        "images_generated": summary.images_generated,
        "images_trained": summary.images_trained,
        "steps": summary.steps,
        "data_wait_fraction": summary.data_wait_fraction,
        "knn": summary.knn.after,
        "image_bytes_written": summary.image_bytes_written,
        "bytes_on_disk": image_bytes(run_dir, run_dir / "picture.png"),
    }


def offline(flags: Sequence[str], num_groups: int, folder: Path, allowed_s: float) -> Row:
    """Two producers that write files, and a trainer that reads them once they are all there."""
    processes = harness.Processes(folder)
    figures = folder / "figures.json"
    (folder / CLAIMS).mkdir()
    plan = {"flags": flags, "folder": str(folder), "num_groups": num_groups, "figures": str(figures)}
    plan |= {"producers": PRODUCERS, "wait_s": allowed_s}
    started, usage = time.time(), harness.CpuUsage()
    try:
        running = {name: _start(processes, name, plan | {"role": "produce", "name": name}) for name in PRODUCERS}
        running["offline-trainer"] = _start(processes, "offline-trainer", plan | {"role": "train"})
        _wait(processes, running, allowed_s)
    finally:
        processes.kill()
    others = usage.others()
    done = json.loads(figures.read_text())
    images = list((folder / IMAGES).glob("*/*.png"))
    return {
        "seconds": done["ended_at"] - started,
        "others_cpu": others,
        "generation_seconds": done["begun_at"] - started,
        "training_seconds": done["ended_at"] - done["begun_at"],
        "images_generated": len(images),
        "images_trained": done["images_trained"],
        "steps": done["steps"],
        "knn": done["knn"],
        "bytes_on_disk": image_bytes(folder),
    }


def _start(processes: harness.Processes, name: str, plan: Mapping[str, object]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "baselines.offline", json.dumps(plan)]
    return processes.start(name, command, cwd=harness.BENCHMARKS)


def _wait(processes: harness.Processes, running: Mapping[str, subprocess.Popen[bytes]], allowed_s: float) -> None:
    """Wait for all of them. Raises BenchmarkError with the first that fails, or when the time is over."""
    deadline = time.monotonic() + allowed_s
    while any(process.poll() is None for process in running.values()):
        _check(processes, running)
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the offline way hangs: it was not done within {allowed_s:.0f} s")
        time.sleep(0.05)
    _check(processes, running)


def _check(processes: harness.Processes, running: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        if process.poll():
            last = (processes.log(name).strip() or "it said nothing").splitlines()[-1]
            raise BenchmarkError(f"{name} ended with status {process.returncode}: {last}")


def compare(seed: int, steps: int) -> dict[str, Any]:
    """Both ways for one seed, in a folder that is removed. Raises BenchmarkError where their work is not the same."""
    flags, allowed_s = flags_of(seed, steps), RUN_S + steps
    with tempfile.TemporaryDirectory(prefix="penstock-offline-") as name:
        ours, theirs = Path(name) / "stream", Path(name) / "offline"
        ours.mkdir()
        theirs.mkdir()
        streamed = stream(flags, ours, allowed_s)
        num_groups = int(streamed["images_generated"]) // train_config(flags).generator.images_per_group
        stored = offline(flags, num_groups, theirs, allowed_s)
    for key in ("images_generated", "images_trained", "steps"):
        if streamed[key] != stored[key]:
            raise BenchmarkError(f"both ways must have the same {key}, got {streamed[key]} and {stored[key]}")
    return {"seed": seed, "stream": streamed, "offline": stored, "speedup": stored["seconds"] / streamed["seconds"]}


def summarise(rows: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Medians of times and bytes, means of kNN with their intervals, and the seeds' own figures."""

    def of(way: str, key: str) -> list[float]:
        return [row[way][key] for row in rows]

    def median(way: str, key: str) -> float:
        return statistics.median(of(way, key))

    knn = {way: of(way, "knn") for way in WAYS}
    differences = [ours - theirs for ours, theirs in zip(knn["stream"], knn["offline"], strict=True)]
    bounds = seed_interval(differences).bounds
    speedup = statistics.median(row["speedup"] for row in rows)
    others = max(max(of(way, "others_cpu")) for way in WAYS)
    return {
        "seconds_stream": median("stream", "seconds"),
        "seconds_offline": median("offline", "seconds"),
        "speedup": speedup,
        "knn_stream": statistics.fmean(knn["stream"]),
        "knn_offline": statistics.fmean(knn["offline"]),
        "knn_difference": statistics.fmean(differences),
        "knn_difference_interval": bounds,
        "knn_stream_interval": seed_interval(knn["stream"]).bounds,
        "knn_offline_interval": seed_interval(knn["offline"]).bounds,
        "bytes_on_disk_stream": median("stream", "bytes_on_disk"),
        "bytes_on_disk_offline": median("offline", "bytes_on_disk"),
        "generation_seconds_offline": median("offline", "generation_seconds"),
        "training_seconds_offline": median("offline", "training_seconds"),
        "stream_no_slower": speedup >= 1,
        # One seed has no interval and so says nothing.
        "margin": MARGIN,
        "stream_no_worse": None if bounds is None else bounds[0] > -MARGIN,
        "pixels_written_by_stream": max(*of("stream", "bytes_on_disk"), *of("stream", "image_bytes_written")),
        "others_cpu": others,
        "images_generated": median("stream", "images_generated"),
        "images_trained": median("stream", "images_trained"),
        "steps": steps,
        "seeds": list(rows),
    }


def print_table(result: Mapping[str, Any]) -> None:
    """Both ways side by side, seed by seed, and what came of it."""
    table = Table(title=f"{result['steps']} steps on {result['images_generated']:,.0f} images, streamed and from files")
    for column in ("", "stream", "offline", "offline / stream"):
        table.add_column(column, justify="right" if column else "left")
    for row in result["seeds"]:
        ours, theirs = row["stream"], row["offline"]
        seconds = (f"{way['seconds']:.1f}" for way in (ours, theirs))
        table.add_row(f"seed {row['seed']}: seconds", *seconds, f"{row['speedup']:.2f}")
        table.add_row("  made + trained in", "", "{generation_seconds:.1f} + {training_seconds:.1f}".format(**theirs))
        table.add_row("  kNN", *(f"{way['knn']:.1%}" for way in (ours, theirs)))
        table.add_section()
    seconds = (f"{result[f'seconds_{way}']:.1f}" for way in WAYS)
    table.add_row("median seconds", *seconds, f"{result['speedup']:.2f}")
    table.add_row("mean kNN", *(f"{result[f'knn_{way}']:.1%}" for way in WAYS))
    table.add_row("  its 95% interval", *(_bounds(result[f"knn_{way}_interval"]) for way in WAYS))
    table.add_row("image bytes on disk", *(f"{result[f'bytes_on_disk_{way}']:,.0f}" for way in WAYS))
    Console().print(table)
    bounds = _bounds(result["knn_difference_interval"])
    print(f"kNN, stream - offline: {result['knn_difference']:+.1%}, {bounds}; no worse: all above {-MARGIN:.0%}")
    for key in ("stream_no_slower", "stream_no_worse", "pixels_written_by_stream"):
        print(f"{key}: {json.dumps(result[key])}")
    if (others := result["others_cpu"]) > QUIET:
        print(
            f"Times mislead: other processes took up to {others:.0%} of the CPU time of a run. Repeat when it is quiet."
        )


def _bounds(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else "no interval from one seed"


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (5)")
    parser.add_argument("--steps", type=int, default=250, metavar="N", help="optimizer steps of each way (250)")
    options = parser.parse_args()
    if options.seeds < 1 or options.steps < 1:
        raise BenchmarkError("--seeds must be >= 1, --steps >= 1")
    rows = []
    for seed in range(options.seeds):
        print(f"seed {seed + 1} of {options.seeds}", file=sys.stderr)
        rows.append(compare(seed, options.steps))
    result = summarise(rows, options.steps)
    print_table(result)
    harness.write_json(options.json, result, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
