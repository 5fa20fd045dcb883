"""`accelerate launch consumer`, `python -m penstock.consumer` and `penstock train`: one rank of a run."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from penstock.config.load import load_config
from penstock.config.process import configure_logging, run
from penstock.consumer import cpu_ranks
from penstock.consumer.config import TrainConfig
from penstock.consumer.opening import open_run

PRESETS = Path(__file__).parent / "presets"


def main(argv: Sequence[str]) -> int:
    """Read the configuration and train. Returns the exit status."""
    started = time.perf_counter()
    config = load_config(
        TrainConfig,
        argv,
        preset_dir=PRESETS,
        prog="penstock train",
        description="Train a Vision Transformer on images that producers make while it trains.",
    )
    if num_ranks := cpu_ranks.missing():
        return cpu_ranks.run(num_ranks, argv)
    rank, world_size = cpu_ranks.place()
    configure_logging(f"rank {rank}")
    with ExitStack() as stack:
        opening = open_run(config, rank, world_size, stack)
        from penstock.consumer.train import train

        train(config, rank, opening, stack, started)
    return 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
