"""What it costs to watch a run: metrics, trace and live page on, against everything off.

    python benchmarks/observability.py --json runs/bench/observability.json

A run is the demo's on two cores: a trainer and its two producers as processes of their own, all of which are busy all
the time, so that whatever a watcher takes, the run lacks. Three ways take turns, in an order that turns round with
every round:

- off: no metrics, no trace, no page;
- on: trainer and producers serve metrics, which are scraped every second (Prometheus' default is every fifteenth), and
  all of them trace;
- page: as `on`, and the live page with a listener that reads all that it is sent.

Throughput is what the trainer trained on a second in its loop, by its own summary. The cost is one minus the ratio to
`off` of the same round; medians over the rounds, with a 95% t-interval of the mean. CPU time beside it: of all
processes of a run, from their starts on, for each image that was trained on.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from harness import BIN, BenchmarkError
from rich.console import Console
from rich.table import Table

from penstock.telemetry.seed_interval import seed_interval
from penstock.telemetry.summary import Summary

WAYS = ("off", "on", "page")
BAR = 0.02
"""The most of its throughput that a run may lose by metrics and trace."""
SCRAPE_S = 1.0
RUN_S = 300.0
"""The longest that one run may take, beside a second a step."""
NEVER = 1_000_000_000
QUIET = 0.1
"""Share of the CPU time that others may take before rates say little."""
PACKAGES = ("torch", "pyzmq", "prometheus-client", "starlette", "uvicorn")

Row = dict[str, float]
"""The figures of one run."""


def run(way: str, steps: int, folder: Path) -> Row:
    """One run, watched as `way` says. Raises BenchmarkError where a process fails or nothing could be watched."""
    folder.mkdir()
    processes, run_dir = harness.Processes(folder), folder / "run"
    base = harness.free_ports(6)
    stream, trainer, page, *producers = (base + place for place in range(5))
    flags: dict[str, Any] = {
        "config": "demo",
        "run-dir": run_dir,
        "max-steps": steps,
        "evaluation.every-steps": NEVER,
        "checkpoint-every-steps": NEVER,
        "fleet.local-producers": 0,
        "stream.endpoint": f"tcp://127.0.0.1:{stream}",
    }
    if way != "off":
        flags |= {"metrics": trainer, "trace": folder / "trace.json"}
    if way == "page":
        flags["dashboard"] = page
    before, usage = os.times(), harness.CpuUsage()
    try:
        running = {"trainer": processes.start("trainer", [str(BIN / "penstock"), "train", *_flags(flags)])}
        for number, port in enumerate(producers):
            own: dict[str, Any] = {"config": "demo", "connect": flags["stream.endpoint"], "name": f"p{number}"}
            own |= {"metrics": port} if way != "off" else {}
            name = f"producer-{number}"
            running[name] = processes.start(name, [str(BIN / "penstock"), "produce", *_flags(own)])
        with _watching(way, [trainer, *producers], page) as seen:
            for name, process in running.items():
                processes.wait(name, process, RUN_S + steps)
    finally:
        processes.kill()
    summary, after = Summary.read(run_dir / "summary.json"), os.times()
    if way != "off" and (not seen["scrapes"] or not (folder / "trace.json").is_file()):
        raise BenchmarkError(f"{way}: nothing was scraped, or there is no trace")
    if way == "page" and not seen["page_bytes"]:
        raise BenchmarkError("page: the listener was sent nothing")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "images_per_s": summary.trainer_images_per_s,
        "cpu_ms_per_image": 1000 * cpu_s / summary.images_trained,
        "data_wait": summary.data_wait_fraction,
        "others_cpu": usage.others(),
        **seen,
    }


@contextlib.contextmanager
def _watching(way: str, metrics: Sequence[int], page: int) -> Iterator[Row]:
    """Scrape and listen until the end of the run; counts what came."""
    seen: Row = {"scrapes": 0, "page_bytes": 0}
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE_S):
            for port in metrics:
                with contextlib.suppress(OSError), urllib.request.urlopen(_url(port, "metrics"), timeout=5) as answer:
                    seen["scrapes"] += bool(answer.read())

    def listen() -> None:
        while not over.wait(SCRAPE_S):
            with contextlib.suppress(OSError), urllib.request.urlopen(_url(page, "events"), timeout=5) as answer:
                while not over.is_set() and (line := answer.readline()):
                    seen["page_bytes"] += len(line)

    threads = [threading.Thread(target=scrape, daemon=True)] if way != "off" else []
    threads += [threading.Thread(target=listen, daemon=True)] if way == "page" else []
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=10)


def _url(port: int, path: str) -> str:
    return f"http://127.0.0.1:{port}/{path}"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def summarise(rounds: Sequence[Mapping[str, Row]], steps: int) -> dict[str, Any]:
    """Costs by way, as shares of the throughput, and all rounds."""

    def costs(way: str) -> list[float]:
        return [1 - each[way]["images_per_s"] / each["off"]["images_per_s"] for each in rounds]

    def cpu(way: str) -> float:
        return statistics.median(each[way]["cpu_ms_per_image"] / each["off"]["cpu_ms_per_image"] - 1 for each in rounds)

    figures: dict[str, Any] = {}
    for way in WAYS[1:]:
        figures |= {
            f"throughput_lost_{way}": statistics.median(costs(way)),
            f"throughput_lost_{way}_interval": seed_interval(costs(way)).bounds,
            f"cpu_more_{way}": cpu(way),
        }
    return {
        **figures,
        "bar": BAR,
        "is_met": figures["throughput_lost_on"] <= BAR,
        "images_per_s": {way: statistics.median(each[way]["images_per_s"] for each in rounds) for way in WAYS},
        "others_cpu": max(row["others_cpu"] for each in rounds for row in each.values()),
        "steps": steps,
        "rounds": list(rounds),
    }


def print_table(result: Mapping[str, Any]) -> None:
    """A row for each way."""
    table = Table(title=f"{len(result['rounds'])} rounds of {result['steps']} steps of the demo; medians")
    for column in ("", "images/s", "throughput lost", "95% interval of the mean", "CPU time more"):
        table.add_column(column, justify="right" if column else "left")
    for way in WAYS:
        row = [way, f"{result['images_per_s'][way]:,.0f}"]
        if way != "off":
            bounds = result[f"throughput_lost_{way}_interval"]
            interval = f"{bounds[0]:+.1%} to {bounds[1]:+.1%}" if bounds else "of one round none"
            row += [f"{result[f'throughput_lost_{way}']:+.1%}", interval, f"{result[f'cpu_more_{way}']:+.1%}"]
        table.add_row(*row)
    Console().print(table)
    if (others := result["others_cpu"]) > QUIET:
        print(f"Rates mislead: other processes took up to {others:.0%} of the CPU time of a run.")


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of all three ways (7)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="optimizer steps of each run (500)")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1:
        raise BenchmarkError("--rounds must be >= 1, --steps >= 1")
    rounds: list[dict[str, Row]] = []
    with tempfile.TemporaryDirectory(prefix="penstock-observability-") as name:
        for number in range(options.rounds):
            order = WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]
            rows = {}
            for way in order:
                started = time.monotonic()
                rows[way] = run(way, options.steps, Path(name) / f"{number}-{way}")
                figures = f"{rows[way]['images_per_s']:,.0f} images/s in {time.monotonic() - started:.0f} s"
                print(f"round {number + 1} of {options.rounds}, {way}: {figures}", file=sys.stderr)
            rounds.append(rows)
    result = summarise(rounds, options.steps)
    print_table(result)
    harness.write_json(options.json, result, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
