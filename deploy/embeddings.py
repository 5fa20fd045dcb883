"""Where a run's images lie in its trained encoder's space: small vectors, kept in the run's folder and memory-mapped.

    embeddings/about.json     whose they are: run, encoder, width D
    embeddings/vectors.f16    float16 [N, D], little-endian, no header: np.memmap(path, "<f2").reshape(-1, D)
    embeddings/images.i64     int64 [N, 3]: of each vector the group's global index, its place there, of how many

A vector for each image, not a mean for each group: of a trained encoder's groups of one prompt the means are so near to
each other that an image's own group is often not the nearest.

Both files only grow, vectors first, by whole groups. So this work can be stopped and gone on with: what was done is not
done again, and a later, larger sample adds to an earlier one. Another encoder begins anew.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.deploy.remaking import IMAGES_AT_A_TIME, batches
from penstock.protocol.errors import RunError

if TYPE_CHECKING:
    from penstock.consumer.evaluation.encoders import Encoder
    from penstock.deploy.remaking import Remade

EMBEDDINGS = "embeddings"
"""The folder, in the run's."""
Embed = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
"""Images uint8 [H, W, 3] to vectors of length 1, float32 [N, D]."""
_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 by the golden ratio: multiples of it, modulo 2**64, lie evenly however many there are (Knuth, 6.4)."""


class EmbeddingStore:
    """The vectors of a run's images.

    Args:
        folder: begun where it is missing, or is of something else.
        key: whose they are, as plain values.
        dim: D.

    Raises RunError, here and in all that writes, where the files cannot be read or written.
    """

    def __init__(self, folder: Path, key: dict[str, Any], dim: int) -> None:
        self._folder = folder
        self._dim = dim
        about = folder / "about.json"
        try:
            is_known = _read(about) == key
            self.is_stale = folder.exists() and not is_known
            """Whether there were others, which are gone."""
            if self.is_stale:
                shutil.rmtree(folder)
            if not is_known:
                # Never written again: torn by a kill it would cost all that was made since.
                folder.mkdir(exist_ok=True)
                about.write_text(json.dumps(key, indent=2) + "\n")
            with self._locked():
                self._cut()
        except OSError as error:
            raise RunError(f"{folder} cannot be used: {error.strerror or error}") from error

    @property
    def images(self) -> NDArray[np.int64]:
        """Each image's group, its number in it, and how many the group has: int64 [N, 3]."""
        return np.fromfile(self._path("images.i64"), "<i8").reshape(-1, 3)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Global indices of the groups, ascending."""
        return np.unique(self.images[:, 0])

    @property
    def vectors(self) -> NDArray[np.float16]:
        """Vectors of length 1, float16 [N, D], mapped and not read."""
        if not self._path("vectors.f16").stat().st_size:
            return np.empty((0, self._dim), np.float16)
        return np.memmap(self._path("vectors.f16"), "<f2", mode="r").reshape(-1, self._dim)

    def append(self, images: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add whole groups: int64 [n, 3] as in `images`, and float32 [n, D]."""
        try:
            with self._locked():
                with self._path("vectors.f16").open("ab") as file:
                    file.write(vectors.astype("<f2").tobytes())
                with self._path("images.i64").open("ab") as file:
                    file.write(images.astype("<i8").tobytes())
        except OSError as error:
            raise RunError(f"{self._folder} cannot be written: {error.strerror or error}") from error

    def _path(self, name: str) -> Path:
        return self._folder / name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Both files as one: of two writers at a time the rows of the one would stand beside the other's vectors."""
        with self._path("lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _cut(self) -> None:
        """Cut both files to the whole groups that they both have: whoever wrote them may have been killed."""
        sizes = {"vectors.f16": 2 * self._dim, "images.i64": 24}
        for name in sizes:
            self._path(name).touch()
        num_rows = min(self._path(name).stat().st_size // size for name, size in sizes.items())
        with self._path("images.i64").open("r+b") as file:
            file.truncate(num_rows * sizes["images.i64"])
        if num_rows:
            _, number, num_images = self.images[-1]
            num_rows -= (number + 1) % num_images
        for name, size in sizes.items():
            with self._path(name).open("r+b") as file:
                file.truncate(num_rows * size)


def sample(indices: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """`num` of the indices, ascending, spread evenly; those of a smaller sample are among those of a larger one."""
    spread = indices.astype(np.uint64) * np.uint64(_GOLDEN)
    return np.sort(indices[np.argsort(spread, kind="stable")[:num]])


def embed_groups(remade: "Iterable[Remade]", embed: Embed, store: EmbeddingStore) -> None:
    """Store the vectors of groups' images.

    Args:
        remade: groups that the store does not have.
        embed: the encoder.
        store: where they go, some groups at a time.
    """
    for batch in batches(remade):
        vectors = embed([image for each in batch for image in each.images])
        counts = [(each.group.index, len(each.images)) for each in batch]
        images = [(index, number, num) for index, num in counts for number in range(num)]
        store.append(np.array(images, np.int64), vectors)


def image_embedder(encoder: "Encoder", device: str) -> Embed:
    """What turns images into vectors, by a frozen encoder on a device."""
    import torch

    @torch.no_grad()
    def embed(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(images), IMAGES_AT_A_TIME):
            pixels = encoder.preprocessing.pixel_values(images[start : start + IMAGES_AT_A_TIME], torch.device(device))
            parts.append(encoder.embed_images(pixels).float().cpu().numpy())
        vectors = np.concatenate(parts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)

    return embed


def _read(path: Path) -> object:
    """What a JSON file says; None where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
