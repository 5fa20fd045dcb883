"""An engine that generates nothing: it looks images up in a set of real ones, and sends them like any others.

A ticket's prompt names the rows whose caption it is, its seed which of them and in what order; both are all that
decides, so any producer with the set serves any ticket of it. Where the set has fewer images of a caption than a group
has places, they stand in it again in turn: a use of a group augments each of its images apart, so the views of one
image are each other's positives.
"""

import logging
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from penstock.config.process import printable
from penstock.imagesets.imageset import ImageSet
from penstock.imagesets.resize import resize
from penstock.producer.engine import Images, Made, Pending
from penstock.producer.work import Work
from penstock.protocol.errors import ImageSetError, ModelError
from penstock.protocol.limits import MAX_NAME_LENGTH
from penstock.protocol.tickets import IMAGES, Manifest, Recipe, Ticket, prompt_id

_log = logging.getLogger(__name__)

_LOOKUP = "images 1"
"""Changes whenever the same ticket would give other images than before."""
_DECODERS = 4
"""Threads that decode; more than a small pool only contends for the interpreter."""


class ImageEngine:
    """Serves one set of real images.

    Args:
        images: the set.
        batch_images: images that are looked up together.
        num_threads: of the decoders; 0 is a few.
    """

    def __init__(self, images: ImageSet, *, batch_images: int = 32, num_threads: int = 0) -> None:
        self._images = images
        self._num_threads = num_threads or _DECODERS
        self._broken: set[int] = set()
        self._lock = threading.Lock()
        self.work = Work()
        self._manifest = Manifest(
            model=printable(images.name)[-MAX_NAME_LENGTH:],
            model_digest=images.digest,
            scheduler="none",
            dtype="uint8",
            backend=IMAGES,
            device="cpu",
            batch_images=batch_images,
            settings={"engine": _LOOKUP},
            versions=_versions(),
        )

    @property
    def manifest(self) -> Manifest:
        """Names the set where others name a model."""
        return self._manifest

    @property
    def num_broken(self) -> int:
        """Rows that were met and could not be used."""
        return len(self._broken)

    def load(self) -> None:
        """Sort the rows by the prompt that their caption is."""
        ids = np.fromiter(_prompt_ids(self._images.captions), np.int64, len(self._images))
        self._rows: NDArray[np.int64] = np.argsort(ids, kind="stable")
        self._ids = ids[self._rows]
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="penstock-decode")

    def company(self, ticket: Ticket) -> Hashable:
        """Whatever is asked for can be looked up together."""
        return None

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """Begin to look up one group per ticket, uint8 [m, H, W, 3]."""
        begun: list[Future[Made]] = [self._pool.submit(self._group, ticket.recipe) for ticket in tickets]

        def wait() -> list[Made]:
            made = [future.result() for future in begun]
            self.work.images += sum(len(group) for group in made if isinstance(group, np.ndarray))
            return made

        return wait

    def _group(self, recipe: Recipe) -> Made:
        """The images of one group, or why there are none."""
        images, name = np.empty(recipe.shape, np.uint8), self._manifest.model
        if recipe.model_digest != self._manifest.model_digest:
            return ModelError(f"the ticket wants the images {recipe.model_digest[:12]}, {name} are others")
        rows = self._order(recipe)
        if not len(rows):
            return ModelError(f"{name} has no image whose caption is {recipe.prompt!r:.60}")
        found = 0
        for image in self._usable(rows, recipe):
            images[found] = image
            found += 1
            if found == recipe.num_images:
                return images
        if not found:
            return ModelError(f"{name}: none of the {len(rows)} images with caption {recipe.prompt!r:.60} can be used")
        return images[np.arange(recipe.num_images) % found]

    def _order(self, recipe: Recipe) -> NDArray[np.int64]:
        """The rows whose caption is the recipe's prompt, in the order that its seed makes."""
        identity = prompt_id(recipe.prompt)
        first, last = np.searchsorted(self._ids, identity), np.searchsorted(self._ids, identity, side="right")
        rows = self._rows[first:last]
        # Raw words, which NumPy keeps the same in all its versions.
        words = np.random.Philox(key=[recipe.seed, 0]).random_raw(len(rows))
        return rows[np.argsort(words, kind="stable")]

    def _usable(self, rows: NDArray[np.int64], recipe: Recipe) -> Iterator[Images]:
        """The rows' images at the recipe's size, in order, without those that cannot be used."""
        for row in rows.tolist():
            if row in self._broken:
                continue
            try:
                image = resize(self._images.image(row), recipe.height, recipe.width)
            except ImageSetError as error:
                self._leave_out(row, str(error))
                continue
            if image.any():
                yield image
            else:
                self._leave_out(row, f"{self._images.name}: {self._images.keys[row]}: it is all black")

    def _leave_out(self, row: int, why: str) -> None:
        """Note, once, a row that cannot be used; the next in its order takes its place."""
        with self._lock:
            is_new = row not in self._broken
            self._broken.add(row)
        if is_new:
            _log.warning("left out, %d so far: %s", len(self._broken), why)


def _prompt_ids(captions: Sequence[str]) -> Iterator[int]:
    """Each caption's `prompt_id`; equal ones are hashed once."""
    known: dict[str, int] = {}
    for caption in captions:
        if caption not in known:
            known[caption] = prompt_id(caption)
        yield known[caption]


def _versions() -> dict[str, str]:
    """What decodes and scales: other versions may give other pixels."""
    from PIL import features

    return {"pillow": version("pillow"), "jpeg": str(features.version_codec("jpg"))}
