"""The old way at a pace: generate everything to a disk, then train: `python -m baselines.paced_disk JSON`.

The same paced engine as in the streaming fleet writes PNG files; then a DataLoader feeds steps that only take time.
The JSON holds the fields of `Share` for a generator, of `Training` for the trainer; both print the seconds that they
worked, without those of their start.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from baselines.disk import DiskGroups, Epochs, Sample, write_group
from penstock.consumer.config import TrainConfig
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.consumer.prompts.writer import TicketWriter
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import make
from penstock.producer.paced_engine import MODEL_DIGEST, PacedEngine
from penstock.telemetry.pace import Pace


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one generator makes: the groups `first`, `first + stride`, … below `num_groups`."""

    folder: str
    images_per_s: float
    first: int
    stride: int
    num_groups: int
    num_images: int
    side: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the trainer does with the files."""

    folder: str
    images_per_s: float
    groups_per_step: int
    num_steps: int


def generate(share: Share) -> None:
    """Make the groups of a share one after another, at the pace, and write them."""
    engine = PacedEngine(ProduceConfig(paced_images_per_s=share.images_per_s, batch_images=share.num_images))
    generator = GeneratorConfig(images_per_group=share.num_images, height=share.side, width=share.side)
    writer = TicketWriter(ToyWorldPrompts(0), TrainConfig(generator=generator), MODEL_DIGEST)
    for index in range(share.first, share.num_groups, share.stride):
        ticket = writer.write(index, rank=0, need_by_step=0)
        write_group(Path(share.folder), index, ticket.recipe.prompt, make(engine, [ticket])[0])


def train(training: Training) -> None:
    """Take every batch from a DataLoader, and as long as its images take at the pace."""
    groups = DiskGroups(Path(training.folder))
    epochs = Epochs(len(groups), training.groups_per_step, training.num_steps, seed=0)
    pace = Pace()
    for images in DataLoader(groups, batch_sampler=epochs, num_workers=1, collate_fn=_stack):
        with pace.lasting(images.shape[0] * images.shape[1] / training.images_per_s):
            pass


def _stack(samples: list[Sample]) -> NDArray[np.uint8]:
    """uint8 [G, m, H, W, 3]."""
    return np.stack([images for images, *_ in samples])


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    start = time.monotonic()
    if "stride" in plan:
        generate(Share(**plan))
    else:
        train(Training(**plan))
    print(time.monotonic() - start)
