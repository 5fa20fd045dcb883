"""`penstock profile`: which part of a run bounds it, by each of them alone and all together. One rank of it.

    python -m penstock.consumer.profiled --config demo --out runs/profile
    accelerate launch --num_processes 2 -m penstock.consumer.profiled --config NAME --out runs/profile

It takes the settings of the run that it is about, and trains as that would. Nothing of it is kept but the report.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from penstock.config.load import load_config
from penstock.config.process import configure_logging, run, shown_width
from penstock.consumer import cpu_ranks, run_folder
from penstock.consumer.__main__ import PRESETS
from penstock.consumer.opening import open_run
from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.protocol.errors import RunError
from penstock.telemetry.summary import BOX_WIDTH

DESCRIPTION = (
    "Measure a run's parts alone and together, and say which of them bounds it. "
    "Two such profiles side by side: penstock profile compare A B."
)
MODULE = "penstock.consumer.profiled"
_TRAINED = {"checkpoint", "checkpoint.old", "encoder", "pair", "picture.png"}
"""What a run leaves behind that took it long."""
_IDENTITY = "run.json"


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
        if rank == 0:
            check_out(config.out, overwrite=config.overwrite)
        opening = open_run(config, rank, world_size, stack)
        if rank == 0:
            stack.push(forgetting(config.out))
        from penstock.consumer.profile_run.profile import measure

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


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises RunError where the report's folder is taken. What was trained is never replaced by a report."""
    try:
        names = {entry.name for entry in out.iterdir()} - {run_folder.LOCK}
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{out} cannot be a report's folder: {error.strerror or error}; choose another --out") from error
    if trained := sorted(names & _TRAINED):
        raise RunError(f"{out} holds a run ({trained[0]}), which no profile replaces; choose another --out")
    if names and not overwrite:
        raise RunError(f"{out} is not empty; pass --overwrite, or another --out")


def forgetting(out: Path) -> Callable[[type[BaseException] | None, object, object], None]:
    """What lets the folder be as if nothing had been begun, where it ends early and left no log that says why."""

    def forget(kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and {entry.name for entry in out.iterdir()} <= {run_folder.LOCK, _IDENTITY}:
            (out / _IDENTITY).unlink(missing_ok=True)

    return forget


def command(argv: Sequence[str], world_size: int) -> str:
    """The line for the shell that measures the same again."""
    launched = ["accelerate", "launch", "--num_processes", str(world_size), "-m", MODULE]
    return shlex.join([*(launched if world_size > 1 else ["penstock", "profile"]), *argv])


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
