"""What the rows of a set say, in memory: the part of every set that is the same whatever its format."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.imagesets.decoding import decode_image
from penstock.imagesets.labels import Labels
from penstock.protocol.errors import ConfigError, ImageSetError


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows without their pixels. `keys`, `captions` and `sizes` have length N."""

    name: str
    """The set as a person says it."""
    keys: Sequence[str]
    captions: Sequence[str]
    labels: Labels
    sizes: Sequence[int]
    """Bytes of each image as it is stored."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 over what every row says; no path of this machine stands in it."""
        hashed = hashlib.sha256()
        names = self.labels.names_by_row(len(self.keys))
        for row in zip(self.keys, self.captions, names, self.sizes, strict=True):
            hashed.update(("\x1f".join(map(str, row)) + "\x1e").encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()


def gather(
    name: str, keys: Sequence[str], captions: Sequence[str] | None, labels: Labels, sizes: Sequence[int]
) -> Rows:
    """Rows whose keys occur once each, and whose captions are the class's name where none is given.

    A key that occurs again (an image with several captions) gets its number: `a.jpg`, `a.jpg#2`.

    Raises ConfigError where there are none.
    """
    if not keys:
        raise ConfigError(f"{name} has no images")
    names = labels.names_by_row(len(keys))
    said = names if captions is None else [text.strip() or name for text, name in zip(captions, names, strict=True)]
    return Rows(name, _numbered(keys), said, labels, sizes)


def _numbered(keys: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    numbered = []
    for key in keys:
        seen[key] += 1
        numbered.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return numbered


class StoredImages:
    """A set whose images lie somewhere as JPEG, PNG or the like.

    Args:
        rows: what is said of them.
        read: the bytes of a row's file; may raise OSError, ValueError or KeyError. Called from several threads.
    """

    def __init__(self, rows: Rows, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.name = rows.name
        self.classes = rows.labels.classes
        self.labels = rows.labels.places
        self.keys = rows.keys
        self.captions = rows.captions
        self.digest = rows.digest

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, row: int) -> NDArray[np.uint8]:
        """As `ImageSet.image`."""
        try:
            return decode_image(self._read(row))
        except (OSError, ValueError, KeyError) as error:
            raise ImageSetError(self.name, self.keys[row], str(error) or repr(error)) from error
