"""A fleet as one file describes it: so many ranks, so many producers, and what each is started with.

`penstock up` starts it on this machine, `penstock slurm` on a cluster, `penstock ray` its producers on another. All
start the ordinary `penstock train` and `penstock produce` with the arguments that stand here, so that whatever works
there works here.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from penstock.config.load import load_config
from penstock.config.rules import require
from penstock.consumer.__main__ import PRESETS as TRAIN_PRESETS
from penstock.consumer.config import TrainConfig
from penstock.producer.__main__ import PRESETS as PRODUCE_PRESETS
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerPlan:
    """The producers of one run."""

    produce: str = "--config demo"
    """Arguments of `penstock produce`, as in a shell, but for `--connect` and `--key`."""
    producers: int = 1
    """Producer processes."""
    dry_run: bool = False
    """Print what would be started, and start nothing."""

    def __post_init__(self) -> None:
        require(self.producers >= 0, "producers must be >= 0", self.producers)

    @property
    def produce_arguments(self) -> list[str]:
        """Of each producer. Raises ConfigError."""
        return split_words(self.produce, "produce")

    def produce_config(self) -> ProduceConfig:
        """What the producers will read. Raises ConfigError."""
        return load_config(
            ProduceConfig, self.produce_arguments, preset_dir=PRODUCE_PRESETS, prog="penstock produce", description=""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan(ProducerPlan):
    """All processes of one run."""

    train: str = "--config demo"
    """Arguments of `penstock train`, as in a shell."""
    ranks: int = 1
    """Trainer processes."""
    keys: str = ""
    """Folder of `penstock keys init`, for links that others can reach: the ranks' `--stream.keys`, and the run's own
    producers have a key of it. Empty for what `train` says; where that says nothing, `penstock slurm` makes one."""
    resume: bool = False
    """Go on from the run folder's checkpoint."""
    overwrite: bool = False
    """Delete what the run folder holds, if it holds a run."""

    def __post_init__(self) -> None:
        ProducerPlan.__post_init__(self)  # `super()` knows no class that slots have made anew
        require(self.ranks >= 1, "ranks must be >= 1", self.ranks)
        require(not (self.overwrite and self.resume), "overwrite and resume exclude each other", "both")

    @property
    def train_arguments(self) -> list[str]:
        """Of each rank: `train`, and what the plan's other fields add, for a later flag overrides an earlier one.

        Raises ConfigError.
        """
        added = ["--fleet.local-producers", "0"]
        added += ["--stream.keys", self.keys] if self.keys else []
        added += ["--no-overwrite", "--resume"] if self.resume else []
        added += ["--no-resume", "--overwrite"] if self.overwrite else []
        return [*split_words(self.train, "train"), *added]

    def train_config(self) -> TrainConfig:
        """What the ranks will read. Raises ConfigError."""
        return load_config(
            TrainConfig, self.train_arguments, preset_dir=TRAIN_PRESETS, prog="penstock train", description=""
        )


def check_sides(train: TrainConfig, produce: ProduceConfig, num_ranks: int) -> None:
    """Raise ConfigError where ranks and producers cannot be those of one run: before anything is started."""
    if train.groups_per_step % num_ranks:
        raise ConfigError(
            f"groups_per_step must be a multiple of the number of ranks ({num_ranks}), got {train.groups_per_step}"
        )
    if train.filter.is_on and not produce.scorer:
        raise ConfigError("train filters images, and produce names no --scorer: toyworld, or a CLIP or SigLIP")


def split_words(text: str, name: str) -> list[str]:
    """The words of `text` as a shell reads them; `name` is what it is called. Raises ConfigError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not what a shell would read: {error}: {text}") from error
