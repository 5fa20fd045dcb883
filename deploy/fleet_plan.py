"""A fleet as one file describes it: so many ranks, so many producers, and what each is started with.

`penstock up` starts it on this machine, `penstock slurm` on a cluster. Both start the ordinary `penstock train` and
`penstock produce` with the arguments that stand here, so that whatever works there works here.
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
class FleetPlan:
    """The processes of one run."""

    train: str = "--config demo"
    """Arguments of `penstock train`, as in a shell."""
    produce: str = "--config demo"
    """Arguments of `penstock produce`, as in a shell, but for `--connect` and `--key`."""
    ranks: int = 1
    """Trainer processes."""
    producers: int = 1
    """Producer processes."""

    def __post_init__(self) -> None:
        require(self.ranks >= 1, "ranks must be >= 1", self.ranks)
        require(self.producers >= 0, "producers must be >= 0", self.producers)

    @property
    def train_arguments(self) -> list[str]:
        """Of each rank."""
        return split_words(self.train, "train")

    @property
    def produce_arguments(self) -> list[str]:
        """Of each producer."""
        return split_words(self.produce, "produce")

    def train_config(self) -> TrainConfig:
        """What the ranks will read. Raises ConfigError."""
        return load_config(
            TrainConfig, self.train_arguments, preset_dir=TRAIN_PRESETS, prog="penstock train", description=""
        )

    def produce_config(self) -> ProduceConfig:
        """What the producers will read. Raises ConfigError."""
        return load_config(
            ProduceConfig, self.produce_arguments, preset_dir=PRODUCE_PRESETS, prog="penstock produce", description=""
        )


def split_words(text: str, name: str) -> list[str]:
    """The words of `text` as a shell reads them; `name` is what it is called. Raises ConfigError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not what a shell would read: {error}: {text}") from error
