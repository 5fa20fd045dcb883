"""The toy world's real handwriting as a set: rendered in colour, or the raw scans enlarged."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.imagesets.labels import Labels
from penstock.imagesets.rows import Rows, gather
from penstock.protocol.errors import ConfigError
from penstock.toyworld.captions import DIGIT_WORDS, caption
from penstock.toyworld.evaluation import LabelledImages, evaluation_sets
from penstock.toyworld.render import render_split

SPEC = "toyworld"
SPLITS = ("train", "val", "test", "raw-val", "raw-test")
_TRAIN_REPEATS, _TRAIN_SEED = 4, 3


class ToySet:
    """N images in memory.

    Args:
        rows: what is said of them.
        images: uint8 [N, 32, 32, 3].
    """

    def __init__(self, rows: Rows, images: NDArray[np.uint8]) -> None:
        self._images = images
        self.name = rows.name
        self.classes = rows.labels.classes
        self.labels = rows.labels.places
        self.keys: Sequence[str] = rows.keys
        self.captions: Sequence[str] = rows.captions
        self.digest = rows.digest

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, row: int) -> NDArray[np.uint8]:
        """As `ImageSet.image`."""
        image: NDArray[np.uint8] = self._images[row]
        return image


def open_toyworld(split: str) -> ToySet:
    """One of `SPLITS`; keys are the scan's id and which of its images this is. Raises ConfigError for another split."""
    if split not in SPLITS:
        raise ConfigError(f"{SPEC} has no split {split!r}; there is {', '.join(SPLITS)}")
    drawn = _draw(split)
    keys = _keys(drawn.scan_ids)
    captions = [caption(digit) for digit in drawn.labels.tolist()]
    labels = Labels(tuple(DIGIT_WORDS), drawn.labels)
    rows = gather(f"{SPEC}/{split}", keys, captions, labels, [image.nbytes for image in drawn.images])
    return ToySet(rows, drawn.images)


def _draw(split: str) -> LabelledImages:
    if split == "train":
        return LabelledImages(*render_split("train", _TRAIN_REPEATS, _TRAIN_SEED))
    sets = evaluation_sets()
    return {"val": sets.bank, "test": sets.queries, "raw-val": sets.raw_bank, "raw-test": sets.raw_queries}[split]


def _keys(scan_ids: NDArray[np.int64]) -> list[str]:
    """`SCAN/0`, `SCAN/1`, ... for the images of each scan."""
    seen: dict[int, int] = {}
    keys = []
    for scan in scan_ids.tolist():
        keys.append(f"{scan}/{seen.get(scan, 0)}")
        seen[scan] = seen.get(scan, 0) + 1
    return keys
