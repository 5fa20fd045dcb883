"""Groups as files on a disk, the way from generator to trainer in StableRep's own code (arXiv 2306.00984).

A folder a group: its caption and a PNG an image. A DataLoader's worker reads, decodes and augments while the model
trains. PNG, because it loses nothing: both ways then train on the same pixels.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from penstock.consumer.config import TrainConfig
from penstock.kernels.augment import augment
from penstock.kernels.augment_params import draw_params
from penstock.protocol.limits import MAX_IMAGES_PER_GROUP
from penstock.protocol.tickets import prompt_id

Use = tuple[int, int]
"""Index of a group, and the epoch in which it is used."""
Sample = tuple[NDArray[np.uint8], int, int, int]
"""Images uint8 [m, H, W, 3], the prompt's id, the group's index, the epoch."""


def write_group(folder: Path, index: int, prompt: str, images: NDArray[np.uint8]) -> None:
    """Write a group's caption and its images, uint8 [m, H, W, 3]."""
    group = folder / f"{index:06d}"
    group.mkdir(parents=True)
    (group / "caption.txt").write_text(prompt, encoding="utf-8")
    for number, image in enumerate(images):
        Image.fromarray(image).save(group / f"{number}.png")


class DiskGroups(Dataset[Sample]):
    """The groups of a folder that `write_group` has filled; an item is named by index and epoch."""

    def __init__(self, folder: Path) -> None:
        self._groups = sorted(path for path in folder.iterdir() if path.is_dir())

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, use: Use) -> Sample:
        index, epoch = use
        group = self._groups[index]
        images = [np.asarray(Image.open(path)) for path in sorted(group.glob("*.png"), key=lambda path: int(path.stem))]
        prompt = (group / "caption.txt").read_text(encoding="utf-8")
        return np.stack(images), prompt_id(prompt), int(group.name), epoch


class Epochs(Sampler[list[Use]]):
    """Batches of all epochs in one go, each epoch in a new order: a worker need not stop where an epoch ends.

    An epoch drops what fills no batch, so that no group is in a batch twice.
    """

    def __init__(self, num_groups: int, groups_per_step: int, num_batches: int, seed: int) -> None:
        self._num_groups, self._groups_per_step = num_groups, groups_per_step
        self._num_batches, self._seed = num_batches, seed

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[Use]]:
        size = self._groups_per_step
        per_epoch = self._num_groups // size
        for number in range(self._num_batches):
            epoch, place = divmod(number, per_epoch)
            if place == 0:
                order = np.random.default_rng([self._seed, epoch]).permutation(self._num_groups).tolist()
            yield [(index, epoch) for index in order[place * size : (place + 1) * size]]


def collate(config: TrainConfig, samples: Sequence[Sample]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Augmented views float32 [G·m, 3, S, S], and of what they are, as `Targets` has it; in the worker."""
    images = torch.from_numpy(np.concatenate([images for images, *_ in samples]))
    num_images = len(samples[0][0])
    _, height, width, _ = images.shape
    indices = torch.tensor([index for *_, index, _ in samples])
    sample_ids = indices[:, None] * MAX_IMAGES_PER_GROUP + torch.arange(num_images)
    echoes = torch.tensor([epoch for *_, epoch in samples]).repeat_interleave(num_images)
    params = draw_params(config.augment, config.seed, sample_ids.flatten(), echoes, 0, height, width)
    prompts = torch.tensor([prompt for _, prompt, *_ in samples])
    return augment(images, params), (prompts, sample_ids, torch.full_like(prompts, -1))


def loader(folder: Path, config: TrainConfig, num_workers: int = 1) -> DataLoader[Sample]:
    """Batches of `config.max_steps` steps from the groups in `folder`.

    Raises ValueError where the groups do not fill one batch.
    """
    groups = DiskGroups(folder)
    if len(groups) < config.groups_per_step:
        raise ValueError(f"a batch must have {config.groups_per_step} groups, {folder} has {len(groups)}")
    epochs = Epochs(len(groups), config.groups_per_step, config.max_steps, config.seed)
    return DataLoader(groups, batch_sampler=epochs, num_workers=num_workers, collate_fn=partial(collate, config))
