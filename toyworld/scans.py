"""Real handwriting: the 1,797 scans of `sklearn.datasets.load_digits`, split once and for all by scan.

The data are the test half of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998,
CC BY 4.0), 8x8 pixels with 17 grey levels. scikit-learn carries them in its wheel, so nothing is
downloaded. The generator and every prompt see the training scans only; the trainer's online evaluation sees
the other two splits only.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]

#: Shares of every digit's scans, in the order of `Split`; the last split takes the rest.
SHARES = (0.6, 0.2)
#: Never change it: the shipped generator was trained on this very split.
SPLIT_SEED = 8


@dataclass(frozen=True, slots=True)
class Scans:
    """Scanned digits of one split.

    images: float32 [N, 8, 8], ink from 0 (paper) to 1.
    labels: int64 [N], the digit written.
    ids: int64 [N], row of the scan in `load_digits`, so that no scan can hide in two splits.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@cache
def load_split(split: Split) -> Scans:
    """Scans of one split, in ascending order of their id; the arrays are shared and read-only.

    Raises ValueError where `split` is none of "train", "val" and "test".
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    # Here because it takes a second to import and captions need no scans.
    from sklearn.datasets import load_digits

    pixels, digits = cast(tuple[NDArray[np.float64], NDArray[np.int64]], load_digits(return_X_y=True))
    ids = np.sort(np.concatenate([_share(np.flatnonzero(digits == digit), split) for digit in range(10)]))
    images = (pixels[ids] / 16).reshape(-1, 8, 8).astype(np.float32)
    scans = Scans(images=images, labels=digits[ids].astype(np.int64), ids=ids.astype(np.int64))
    for array in (scans.images, scans.labels, scans.ids):
        array.setflags(write=False)
    return scans


def _share(ids: NDArray[np.intp], split: Split) -> NDArray[np.intp]:
    """The part of one digit's scan ids [N] that belongs to `split` (stratified by construction)."""
    shuffled = np.random.default_rng([SPLIT_SEED, int(ids[0])]).permutation(ids)
    borders = np.cumsum([round(share * len(ids)) for share in SHARES])
    return np.split(shuffled, borders)[get_args(Split).index(split)]
