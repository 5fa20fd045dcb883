"""Images per second of the shipped tiny model on the CPU, one thread: Penstock's engine against diffusers' own call.

    make bench-setup && python benchmarks/generate.py --json runs/bench/generate.json

All sides make groups of 8 images of 32², guidance 2.5, 6 steps, and call the denoiser with as many rows at a time as
diffusers does for a batch of 32 guided images: 64. Prompts are new in every batch. The engine runs on each of its
backends; at the top of the figures stands the fastest, against the call as it is. Whoever compiles the pipeline's
networks by hand, as its documentation says, is compared with the compiled backend. The service is the producing
program's own loop with its threads and sockets, and a rank in another process; its overhead is what it is slower than
the same engine called in a bare loop. All sides run in turn in every round. A rate is the median over the rounds, a
ratio the median of the rounds' own ratios.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import harness
import torch
from baselines.generating import Asked, by_pipeline, service_rate
from harness import BenchmarkError
from rich.console import Console
from rich.table import Table

from penstock.producer.__main__ import open_engine
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, make
from penstock.producer.model_folder import TINY
from penstock.telemetry.machine import cxx_compiler

ASKED = Asked(images_per_group=8, guidance_scale=2.5, num_inference_steps=6, side=32)
GROUPS = 4
"""In a batch of diffusers' call."""
ROWS = 2 * GROUPS * ASKED.images_per_group
SERVICE_GROUPS = 96
"""That a round of the service makes, unless told otherwise: 12 batches."""
COMPILED = "diffusers_compiled"
BARS = {"ratio_to_diffusers_pipeline": 1.3, "service_overhead": 0.03}
PACKAGES = ("torch", "diffusers", "transformers", "pyzmq")


def config(backend: Any) -> ProduceConfig:
    """An engine's settings."""
    return ProduceConfig(model="tiny", backend=backend, device="cpu", batch_images=ROWS, decode_images=32, threads=1)


def by_engine(engine: Engine, num_groups: int, start: int) -> object:
    """The groups from index `start` on."""
    return make(engine, ASKED.tickets(start, num_groups, engine.manifest.model_digest))


def open_sides(backends: list[str]) -> tuple[dict[str, Callable[[int], object]], dict[str, Engine]]:
    """What makes the groups from an index on, by name; and the engines among them."""
    # Here, so that the rank's process, which imports this script, need not wait for diffusers.
    from penstock.producer.loading import find_dtype, load_pipeline

    device = torch.device("cpu")
    pipeline = load_pipeline(TINY, find_dtype("auto", device), device)
    engines = {backend: open_engine(config(backend)) for backend in backends}
    digest = engines[backends[0]].manifest.model_digest
    sides: dict[str, Callable[[int], object]] = {
        "diffusers": lambda start: by_pipeline(pipeline, ASKED.tickets(start, GROUPS, digest))
    }
    if "inductor" in backends:
        compiled = load_pipeline(TINY, find_dtype("auto", device), device)
        # As diffusers' documentation says to.
        compiled.unet = torch.compile(compiled.unet, fullgraph=True)
        compiled.vae.decode = torch.compile(compiled.vae.decode, fullgraph=True)
        sides[COMPILED] = lambda start: by_pipeline(compiled, ASKED.tickets(start, GROUPS, digest))
    for backend, engine in engines.items():
        print(f"loading the engine with backend {backend}", file=sys.stderr)
        engine.load()
        sides[backend] = partial(by_engine, engine, GROUPS)
    return sides, engines


def rate(side: Callable[[int], object], starts: "count[int]", seconds: float) -> float:
    """Images per second of whole batches, for at least so long."""
    begun, batches = time.perf_counter(), 0
    while (took := time.perf_counter() - begun) < seconds or not batches:
        side(next(starts))
        batches += 1
    took = time.perf_counter() - begun
    return batches * GROUPS * ASKED.images_per_group / took


def measure(backends: list[str], rounds: int, seconds: float, service_groups: int) -> dict[str, list[float]]:
    """Images per second of every side in every round, after one round that warms up."""
    sides, engines = open_sides(backends)
    served = backends[0]
    engine, per_batch = engines[served], ROWS // ASKED.images_per_group
    bare = partial(by_engine, engine, per_batch)
    rates: dict[str, list[float]] = {name: [] for name in (*sides, "bare", "service")}
    starts = count(0, 1000)
    for number in range(rounds + 1):
        row = {name: rate(side, starts, seconds) for name, side in sides.items()}
        # As many batches as the service makes, and of its size; half before it and half after.
        before = rate(bare, starts, seconds) * per_batch / GROUPS
        row["service"] = service_rate(engine, config(served), ASKED, service_groups)
        after = rate(bare, starts, seconds) * per_batch / GROUPS
        row["bare"] = 2 / (1 / before + 1 / after)
        for name, value in row.items():
            if number:
                rates[name].append(value)
        print(f"round {number} of {rounds}{'' if number else ' (warm-up)'}", file=sys.stderr)
    return rates


def summarise(rates: dict[str, list[float]], backends: list[str]) -> dict[str, Any]:
    """Medians; the ratio of each backend to diffusers' call; the service's overhead over the bare engine."""
    ratios = {
        backend: statistics.median(
            mine / theirs for mine, theirs in zip(rates[backend], rates["diffusers"], strict=True)
        )
        for backend in backends
    }
    fastest = max(ratios, key=lambda backend: ratios[backend])
    overhead = statistics.median(
        1 - served / bare for served, bare in zip(rates["service"], rates["bare"], strict=True)
    )
    return {
        "images_per_s": statistics.median(rates[fastest]),
        "ratio_to_diffusers_pipeline": ratios[fastest],
        "service_overhead": overhead,
        "backend": fastest,
        **_against_compiled(rates),
        "ratios": ratios,
        "meets_bars": ratios[fastest] >= BARS["ratio_to_diffusers_pipeline"] and overhead <= BARS["service_overhead"],
        "rounds": rates,
    }


def _against_compiled(rates: dict[str, list[float]]) -> dict[str, float]:
    """Like with like: our compiled backend against the pipeline whose networks are compiled by hand."""
    if COMPILED not in rates:
        return {}
    pairs = zip(rates["inductor"], rates[COMPILED], strict=True)
    return {"ratio_to_compiled_pipeline": statistics.median(mine / theirs for mine, theirs in pairs)}


def print_table(result: dict[str, Any], rates: dict[str, list[float]], backends: list[str]) -> None:
    """A row for each side."""
    table = Table(title="The tiny model on one thread, groups of 8 images of 32², guidance 2.5, 6 steps")
    for column in ("", "images/s", "times diffusers' call"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("diffusers' pipe(...)", f"{statistics.median(rates['diffusers']):.0f}", "")
    if COMPILED in rates:
        stock = statistics.median(rates[COMPILED])
        ratio = statistics.median(a / b for a, b in zip(rates[COMPILED], rates["diffusers"], strict=True))
        table.add_row("diffusers' pipe(...), compiled by hand", f"{stock:.0f}", f"{ratio:.2f}")
    for backend in backends:
        ratio = result["ratios"][backend]
        table.add_row(f"Penstock, {backend}", f"{statistics.median(rates[backend]):.0f}", f"{ratio:.2f}")
    Console().print(table)
    Console().print(f"The whole service is {result['service_overhead']:.1%} slower than the bare engine.")


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="how often all sides run (7)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each side in a round (2)")
    parser.add_argument("--backends", default="", metavar="NAME,…", help="of eager, inductor (all that work here)")
    parser.add_argument("--service-groups", type=int, default=SERVICE_GROUPS, metavar="N", help="of a round (96)")
    options = parser.parse_args()
    backends = options.backends.split(",") if options.backends else ["eager", *["inductor"] * bool(cxx_compiler())]
    if unknown := [name for name in backends if name not in ("eager", "inductor")]:
        raise BenchmarkError(f"there is no backend {unknown[0]!r} to compare; choose from eager, inductor")
    if options.rounds < 1 or options.seconds <= 0:
        raise BenchmarkError("--rounds must be >= 1, --seconds > 0")
    # A rate counts from the second batch to the last.
    if options.service_groups < (least := 3 * ROWS // ASKED.images_per_group):
        raise BenchmarkError(f"--service-groups must be >= {least}, got {options.service_groups}")
    torch.set_num_threads(1)
    usage = harness.CpuUsage()
    rates = measure(backends, options.rounds, options.seconds, options.service_groups)
    result = summarise(rates, backends)
    print_table(result, rates, backends)
    harness.write_json(options.json, {**result, "cpu_taken_by_others": usage.others()}, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
