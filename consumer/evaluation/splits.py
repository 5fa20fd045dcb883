"""Which images do what: what a test image is compared with, what the probe is trained on and chosen by, what is tested.

Three parts that share no image. The test images decide nothing: no setting, no prompt, no stop. Where a set has no
validation split, one is cut from its training split by a fixed seed, the same share of every class and all images of
one scan together, so that it is the same for every encoder that is compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.consumer.evaluation.features import Images

_SPLIT_SEED = 20_230_601
"""Never change it: figures would no longer compare."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Some rows of a set.

    rows: int64 [N], rows of `images`. labels: int64 [N], places in the task's classes. ids: int64 [N], the same where
    images show the same original, such as a scan; None where every image is its own.
    """

    images: Images
    rows: Tensor
    labels: Tensor
    ids: Tensor | None = None
    groups: Mapping[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)
    """What else is known of the images: by an attribute's name its value, int64 [N], a place in the values' names."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "Labelled":
        """The part at the given places, int64."""
        ids = None if self.ids is None else self.ids[rows]
        groups = {name: (value[rows], names) for name, (value, names) in self.groups.items()}
        return Labelled(self.images, self.rows[rows], self.labels[rows], ids, groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A classification of images."""

    name: str
    classes: tuple[str, ...]
    bank: Labelled
    """The images that test images are compared with, and that the probe is trained on or chosen by."""
    fit: Tensor
    """int64: places in the bank that the probe is trained on."""
    choosing: Tensor | Labelled
    """What the probe's setting is chosen by: the bank's other places, or a split of its own."""
    test: Labelled
    templates: tuple[str, ...]
    """How a class is put in words, where the settings do not say it."""
    original: str = "image"
    """What one id is."""


def cut(labelled: Labelled, share: float) -> tuple[Tensor, Tensor]:
    """Places of the bank for fitting and for choosing, int64, ascending: `share` of every class's ids for the second.

    A class with one id alone stays in the first.
    """
    ids = (torch.arange(len(labelled)) if labelled.ids is None else labelled.ids).numpy()
    labels = labelled.labels.numpy()
    rng = np.random.default_rng(_SPLIT_SEED)
    set_aside: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        own = np.unique(ids[labels == label])
        num = min(len(own) - 1, max(1, round(share * len(own))))
        set_aside.append(rng.permutation(own)[:num])
    is_aside = np.isin(ids, np.concatenate(set_aside))
    return torch.from_numpy(np.flatnonzero(~is_aside)), torch.from_numpy(np.flatnonzero(is_aside))


def limited(labelled: Labelled, limit: int) -> Labelled:
    """At most `limit` images, drawn by a fixed seed; all of them where it is 0."""
    if limit == 0 or limit >= len(labelled):
        return labelled
    drawn = np.random.default_rng(_SPLIT_SEED).permutation(len(labelled))[:limit]
    return labelled.take(torch.from_numpy(np.sort(drawn)))
