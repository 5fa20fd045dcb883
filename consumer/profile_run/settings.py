"""Settings of a profile: those of the run that is asked about, and how long to look."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import ClassVar

from penstock.config.rules import require
from penstock.consumer.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig(TrainConfig):
    """Measures a run's parts alone and together, and says which of them bounds it. Trains, and keeps nothing of it."""

    folder_flag: ClassVar[str] = "--out"
    out: Path = Path("runs/profile")
    """Folder of the report; the run's own (`run_dir`) is left alone."""
    seconds: float = 10.0
    """Seconds of each measurement. More makes the figures surer; a batch of the slowest producer should be a small part
    of it."""
    min_producers: int = 1
    """Producers to wait for before anything is measured, beside those that the run starts itself."""
    paced_images_per_s: float = 0.0
    """Images that each rank's step takes a second, as it were: a rehearsal that trains on nothing. 0 really trains."""
    producer_price_per_hour: float = 0.0
    """What a producer's device costs, in any currency; 0 for unknown."""
    trainer_price_per_hour: float = 0.0
    """What a rank's device costs, in the same; 0 for unknown."""

    def __post_init__(self) -> None:
        # Without its arguments `super` looks for the class that `slots` has replaced.
        TrainConfig.__post_init__(self)
        require(1 <= self.seconds < inf, "seconds must be >= 1", self.seconds)
        require(self.min_producers >= 1, "min_producers must be >= 1", self.min_producers)
        for name in ("paced_images_per_s", "producer_price_per_hour", "trainer_price_per_hour"):
            require(0 <= getattr(self, name) < inf, f"{name} must be >= 0", getattr(self, name))
        require(not self.resume, "resume must be left out of a profile, which begins anew", self.resume)
        require(
            not self.dashboard, "dashboard must be left out of a profile, which would measure it, too", self.dashboard
        )
