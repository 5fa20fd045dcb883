"""`penstock profile`: which part of a run bounds it, by each of them alone and all together. One rank of it.

    python -m penstock.consumer.profiled --config demo --out runs/profile
    accelerate launch --num_processes 2 -m penstock.consumer.profiled --config NAME --out runs/profile

It takes the settings of the run that it is about, and trains as that would. Nothing of it is kept but the report.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from penstock.config.load import load_config
from penstock.config.process import configure_logging, run, shown_width
from penstock.consumer import cpu_ranks
from penstock.consumer.__main__ import PRESETS
from penstock.consumer.opening import open_run
from penstock.consumer.profiling.settings import ProfileConfig
from penstock.protocol.errors import RunError
from penstock.telemetry.summary import BOX_WIDTH

DESCRIPTION = (
    "Measure a run's parts alone and together, and say which of them bounds it. "
    "Two such profiles side by side: penstock profile compare A B."
)
MODULE = "penstock.consumer.profiled"


def main(argv: Sequence[str]) -> int:
    """Read the configuration and measure. Returns the exit status."""
    begun = time.monotonic()
    config = load_config(ProfileConfig, argv, preset_dir=PRESETS, prog="penstock profile", description=DESCRIPTION)
    if num_ranks := cpu_ranks.missing():
        return cpu_ranks.run(num_ranks, argv, MODULE)
    rank, world_size = cpu_ranks.place()
    configure_logging(f"rank {rank}")
    with ExitStack() as stack:
        config = replace(config, run_dir=config.out)
        if rank == 0 and not config.overwrite and config.out.is_dir() and any(config.out.iterdir()):
            raise RunError(f"{config.out} is not empty; pass --overwrite, or another --out")
        opening = open_run(config, rank, world_size, stack)
        from penstock.consumer.profiling.profile import measure

        measurements = measure(config, rank, opening, stack, begun, command(argv, world_size))
    if measurements is not None:
        from penstock.telemetry.profile.report import write_report
        from penstock.telemetry.profile.text import box

        try:
            summary = write_report(config.out, measurements)
        except OSError as error:
            raise RunError(f"the report cannot be written to {config.out}: {error.strerror or error}") from error
        print(box(summary, shown_width(BOX_WIDTH)))
    return 0


def command(argv: Sequence[str], world_size: int) -> str:
    """The line for the shell that measures the same again."""
    launched = ["accelerate", "launch", "--num_processes", str(world_size), "-m", MODULE]
    return shlex.join([*(launched if world_size > 1 else ["penstock", "profile"]), *argv])


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
