"""The same fleet as real processes: paced producers and a paced rank, to hold the simulation to."""

import json
import sys
from pathlib import Path
from typing import Any

import harness
from harness import BIN

from simulation.churn import losses
from simulation.costs import Costs
from simulation.setting import Setting
from simulation.world import World

GROUPS_PER_STEP, SIDE, NUM_IMAGES = 16, 32, 4
IMAGES_PER_S, WINDOW_GROUPS = 16.0, 64
"""Of a producer; and the programs' own window: too small for the larger fleets, whose batches then wait for company,
so that there is something to foretell."""
WARMUP_S, START_S = 8.0, 120.0


def setting(producers: int) -> Setting:
    """What is rehearsed and simulated."""
    return Setting(
        producers=producers,
        ranks=1,
        images_per_s=IMAGES_PER_S,
        spread=0.0,
        images_per_group=NUM_IMAGES,
        group_bytes=NUM_IMAGES * SIDE * SIDE * 3,
        window_groups=WINDOW_GROUPS,
        steps_per_s=producers * IMAGES_PER_S / NUM_IMAGES / GROUPS_PER_STEP,
        trainer_share=1e3,
        padding_takes_time=False,
    )


def simulate(producers: int, costs: Costs, measured_s: float) -> float:
    """Images/s that the simulation foretells."""
    world = World(setting(producers), costs)
    return world.run(losses("none", producers, 0.0, 0.0, 0.0, 0), WARMUP_S, measured_s).images_per_s


def rehearse(producers: int, expected: float, measured_s: float, folder: Path) -> float:
    """Images/s of real processes. Raises BenchmarkError where one fails or hangs.

    Args:
        producers: how many.
        expected: images/s, about: it says how many steps are taken.
        measured_s: how long, about.
        folder: for logs.
    """
    folder.mkdir()
    processes = harness.Processes(folder)
    endpoint = f"tcp://127.0.0.1:{harness.free_ports(1)}"
    steps_per_s = expected / NUM_IMAGES / GROUPS_PER_STEP
    warmup = max(1, round(WARMUP_S * steps_per_s))
    rank_flags: dict[str, Any] = {
        "images-per-s": 1e9,
        "max-steps": warmup + max(2, round(measured_s * steps_per_s)),
        "first-measured-step": warmup,
        "min-producers": producers,
        "groups-per-step": GROUPS_PER_STEP,
        "run-dir": folder / "run",
        "stream.endpoint": endpoint,
        "stream.window-groups": WINDOW_GROUPS,
        "generator.images-per-group": NUM_IMAGES,
        "generator.height": SIDE,
        "generator.width": SIDE,
        "reservoir.capacity-groups": GROUPS_PER_STEP,
    }
    try:
        for number in range(producers):
            flags = {"backend": "paced", "paced-images-per-s": IMAGES_PER_S, "connect": endpoint, "name": f"p{number}"}
            processes.start(f"producer-{number}", [str(BIN / "penstock"), "produce", *_flags(flags)])
        rank = processes.start("rank", [sys.executable, "-m", "penstock.consumer.paced", *_flags(rank_flags)])
        processes.wait("rank", rank, START_S + 3 * (WARMUP_S + measured_s))
        report = json.loads(processes.log("rank").splitlines()[-1])
    finally:
        processes.kill()
    return min(float(report["images_per_s"]), report["images_received"] / report["seconds"])


def _flags(values: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
