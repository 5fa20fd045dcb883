"""Configuration of `penstock up`: the plan of a fleet, and what of this machine each of its processes gets."""

from dataclasses import dataclass
from typing import Literal

from penstock.deploy.fleet_plan import FleetPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class UpConfig(FleetPlan):
    """A run with all its processes on this machine: so many ranks, so many producers, and what each is started with."""

    producer_devices: str = ""
    """One producer each: `all` GPUs, or a list such as `0-5`, `0,2,5` or `cpu,cpu`. Empty for `producers` processes,
    each on a GPU that no rank has, unless `produce` names a device."""
    trainer_devices: str = ""
    """One rank each, listed likewise. Empty for `ranks` processes, on the last GPUs; on the CPU where there is none."""
    share_gpus: bool = False
    """Let a producer and a rank have the same GPU: both are slower, and both models must fit its memory."""
    view: Literal["auto", "trainer", "merged"] = "auto"
    """What is shown: rank 0's own view of the run, or the lines of all processes, each with its name before it; in a
    terminal `auto` is the former. Each process's log is kept either way."""
