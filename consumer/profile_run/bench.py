"""What a rank's measurements share: its parts, as a run has them, and where in the stream the next measurement begins.

Each measurement asks for groups of its own, so global indices and step numbers only ever go on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

import psutil
import torch
from accelerate import Accelerator

from penstock.consumer.batch import Batch
from penstock.consumer.engines import Engines
from penstock.consumer.feed_state import FeedState
from penstock.consumer.group import Group
from penstock.consumer.intake import open_batches
from penstock.consumer.kept_groups import Groups
from penstock.consumer.ledger import Ledger
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.ranks import sum_over_ranks
from penstock.consumer.stream import GroupStream
from penstock.consumer.tokenizer import CaptionTokenizer
from penstock.consumer.watching.observed import Observed
from penstock.telemetry.machine import usable_cores

_ENDLESS = 1 << 30
"""More steps than any measurement does."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """One rank and what has been asked of it so far."""

    config: ProfileConfig
    accelerator: Accelerator
    stream: GroupStream
    prompts: PromptSource
    tokenizer: CaptionTokenizer | None
    ledger: Ledger
    engines: Engines
    observed: Observed
    """What metrics see."""
    step: Callable[[Batch, int], object]
    """Trains on a batch, or takes as long."""
    check_fleet: Callable[[], object]
    """Takes note of producers that come and go."""
    groups: list[Group] = field(default_factory=list)
    """Some that have come, kept for what is measured without a stream."""
    num_steps: int = 0
    """Step numbers that have been given away."""
    next_index: int = 0
    """A multiple of the groups of a step, from which on no rank has asked for anything."""

    @property
    def rank(self) -> int:
        """Whose."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return int(self.accelerator.num_processes)

    @property
    def images_per_step(self) -> int:
        """Of this rank."""
        return self.config.groups_per_step // self.world_size * self.config.images_per_use

    @property
    def max_reuse(self) -> int:
        """Uses that a group may get."""
        return self.config.reservoir.reuse_policy.max_reuse

    def writer(self) -> TicketWriter:
        """Writes tickets as a run does."""
        return TicketWriter(self.prompts, self.config, self.engines.model_digest, self.engines.scorer_digest)

    def open_batches(self, groups: Groups, state: FeedState) -> Prefetcher:
        """As a run's, from a stream or from what stands in its place; from the next step on, without end."""
        batches = open_batches(
            self.config,
            self.prompts,
            groups,
            self.ledger,
            self.engines.model_digest,
            state,
            range(self.num_steps, self.num_steps + _ENDLESS),
            self.accelerator.device,
            tokenize=self.tokenizer,
            scorer_digest=self.engines.scorer_digest,
        )
        self.observed.batches = batches
        return batches

    def train(self, batch: Batch) -> None:
        """Do the next step."""
        # Schedules end with the run; a profile may do more steps than that.
        self.step(batch, min(self.num_steps, self.config.max_steps - 1))
        self.num_steps += 1
        self.observed.steps += 1
        self.observed.stepped_at = time.time()

    def pass_index(self, last_index: int) -> None:
        """Everything up to `last_index`, here, may have been asked for. All ranks call it together."""
        groups_per_step = self.config.groups_per_step
        self.next_index = ceil((int(self.most(last_index)) + 1) / groups_per_step) * groups_per_step

    # --- what the ranks decide together -------------------------------------------------------------------------------

    def total(self, value: float) -> float:
        """The sum over all ranks."""
        return sum_over_ranks(self.accelerator, [value])[0]

    def most(self, value: float) -> float:
        """The largest of all ranks."""
        if self.world_size == 1:
            return value  # nobody needs to wait for the device
        here = torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.gather(here).max())

    def all_agree(self, here: bool) -> bool:
        """Whether it is so on every rank."""
        return self.most(0.0 if here else 1.0) == 0.0

    def wait_for_device(self) -> None:
        """Until all that was asked of the device is done."""
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)


class BusyCores:
    """How busy the cores are that this process may use, by everybody; since it was made."""

    def __init__(self) -> None:
        self._before = _core_seconds()
        # Then others may keep these cores busy, or none may, and this process is held up all the same.
        self._has_quota = usable_cores() < len(_usable())

    def share(self) -> float | None:
        """0 to 1; None where the system does not tell, or where a quota leaves a part of the cores' time."""
        if self._has_quota:
            return None
        (idle, total), (idle_before, total_before) = _core_seconds(), self._before
        return 1 - (idle - idle_before) / (total - total_before) if total > total_before else None


def _core_seconds() -> tuple[float, float]:
    """Seconds that the usable cores were idle, and all their seconds."""
    every = psutil.cpu_times(percpu=True)
    cores = [every[core] for core in _usable() if core < len(every)] or every
    return sum(core.idle + getattr(core, "iowait", 0.0) for core in cores), sum(sum(core) for core in cores)


def _usable() -> Sequence[int]:
    """Numbers of the cores that this process may use; none where the system does not tell."""
    return psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else []
