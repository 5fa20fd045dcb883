"""What trainer, producer and evaluation ask of a set of real images. The formats have files of their own."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ImageSet(Protocol):
    """N images with what is said of them. Only `image` reads pixels; all else is in memory from the opening on."""

    @property
    def name(self) -> str:
        """The set as a person says it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty where images have none."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 over what the rows say (key, caption, label, size in bytes): equal wherever the set lies."""

    def __len__(self) -> int:
        """N."""

    @property
    def captions(self) -> Sequence[str]:
        """One a row, length N: the class's name where there is no caption, empty where there is neither."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [N], places in `classes`; None where images have no labels."""

    @property
    def keys(self) -> Sequence[str]:
        """The row's name in the set, length N; each occurs once."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """The image of a row, decoded now, upright: uint8 [H, W, 3], RGB. May be called from several threads.

        Raises ImageSetError where it cannot be read.
        """
