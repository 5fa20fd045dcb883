"""What may be looked at of a rank while it runs, from any thread: for metrics, live views and the trace."""

import time
from dataclasses import dataclass, field

from penstock.consumer.config import TrainConfig
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching.event_log import EventLog
from penstock.telemetry.recorder import Recorder


@dataclass(slots=True, kw_only=True)
class Observed:
    """The parts of a rank that runs. Whoever looks changes nothing."""

    config: TrainConfig
    folder: RunFolder
    rank: int
    world_size: int
    recorder: Recorder
    stream: GroupStream
    record: Record
    batches: Prefetcher | None = None
    """None until the first is being prepared."""
    steps: int = 0
    """Optimizer steps done, in all lives of the run."""
    first_step: int = 0
    """Of this life."""
    stepped_at: float = field(default_factory=time.time)
    """When the last step was done, seconds since the epoch; when the rank began, before the first."""
    loss: float | None = None
    """The last that was looked at in this life, mean over the ranks; no finite number where training goes wrong."""
    flops_per_step: float | None = None
    """Floating point operations of this rank's step; None where that is not known."""
    matrix_flops_per_s: float | None = None
    """What large matrix products reach on this rank's device."""
    events: EventLog = field(default_factory=EventLog)
    """What the rank logs."""
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def images_per_step(self) -> int:
        """Of this rank."""
        return self.config.groups_per_step // self.world_size * self.config.images_per_use

    def flop_share(self, steps_per_s: float) -> float | None:
        """This rank's arithmetic at so many steps a second as a share of what matrix products reach here."""
        if not self.flops_per_step or not self.matrix_flops_per_s:
            return None
        return steps_per_s * self.flops_per_step / self.matrix_flops_per_s

    @property
    def images_trained(self) -> int:
        """Of this rank, in this life."""
        return (self.steps - self.first_step) * self.images_per_step
