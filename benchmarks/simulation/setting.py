"""What one simulated fleet is."""

from dataclasses import dataclass
from typing import Literal

from penstock.protocol.dispatcher import Patience


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A run and its fleet; the defaults of the protocol are those of the programs."""

    producers: int
    ranks: int
    order: Literal["ticket", "arrival"] = "arrival"
    images_per_s: float = 10.0
    """Of a producer, the mean of the fleet."""
    spread: float = 0.2
    """Producers' paces are even within this share of the mean on either side of it."""
    images_per_group: int = 4
    group_bytes: int = 4 * 256 * 256 * 3
    batch_images: int = 32
    padding_takes_time: bool = True
    """Whether an incomplete batch takes as long as a full one, as it does on every real engine. The `paced` one, whose
    work is a sleep, spares the time."""
    batch_wait_s: float = 2.0
    credit_groups: int = 16
    max_ranks: int = 0
    """Ranks that a producer serves at first; 0 for the machine's own number."""
    batches_per_producer: float = 2.5
    """The window, over all ranks, in batches of every producer."""
    window_groups: int = 0
    """The window over all ranks, where it is not 0."""
    steps_per_s: float = 2.0
    """Steps that the fleet's whole pace would feed: it says how many groups a step takes."""
    trainer_share: float = 2.0
    """T over P: what the trainers could take of what the fleet makes."""
    latency_s: float = 0.0005
    producer_bytes_per_s: float = 1.25e9
    rank_bytes_per_s: float = 1.25e9
    load_s: float = 20.0
    """From a producer's start until its model is loaded."""
    replace_s: float = 30.0
    """From a producer's loss until another is started in its place."""
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    tick_s: float = 0.05
    """How often the machines let time pass; the programs do it every 0.05 s."""
    seed: int = 0

    @property
    def patience(self) -> Patience:
        """Of every rank."""
        return Patience(heartbeat_s=self.heartbeat_s, lease_s=self.lease_s)

    @property
    def groups_per_rank(self) -> int:
        """That a step takes of each rank."""
        per_step = self.producers * self.images_per_s / self.images_per_group / self.steps_per_s
        return max(1, round(per_step / self.ranks))

    @property
    def rank_window(self) -> int:
        """Groups asked for, or here and not taken, of each rank: the fleet's batches, a step and the one ahead."""
        if self.window_groups:
            return max(1, self.window_groups // self.ranks)
        batches = self.batches_per_producer * self.producers * self.batch_images / self.images_per_group
        return round(batches / self.ranks) + 2 * self.groups_per_rank
