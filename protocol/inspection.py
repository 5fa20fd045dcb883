"""Whether the pixels that came are what the ticket asked for, and how what is refused is counted.

To inspect a group takes milliseconds, so nothing here needs a state machine: its shell asks what is wanted, inspects,
and tells the machine the outcome.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from penstock.protocol.actions import Buffer
from penstock.protocol.checksum import crc32
from penstock.protocol.image_codec import JPEG, decode_jpegs
from penstock.protocol.messages import Result
from penstock.protocol.tickets import Manifest, Recipe, Ticket

_MAX_COUNTED = 1024
"""Pairs that are counted apart; what comes beyond them is counted as others."""
_GLANCE_BYTES = 61
"""Bytes of an image that are looked at before all of them are."""
BLANK = "blank"
"""The one fault that may lie with the ticket."""
_SHARED_FRAME_BYTES = 8192
"""Frames below the size of libzmq's receive buffer lie in it, with whatever else came: kept, they keep all of it."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A group that is what its ticket asked for."""

    buffer: Buffer
    """uint8, C order, of the recipe's shape: the frame itself where it was raw and is not small."""
    wire_bytes: int
    """Bytes of the frame that came."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a result's pixels cannot be what its ticket asked for."""

    word: str
    """What refusals are counted by."""
    what: str


class Tally:
    """Counts what happens by kind and by who did it, in bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By (what, who)."""
        self.total = 0

    @property
    def by_kind(self) -> Counter[str]:
        """Counts by what, whoever did it."""
        kinds: Counter[str] = Counter()
        for (what, _), count in self.counts.items():
            kinds[what] += count
        return kinds

    def counts_round(self, what: str, who: str) -> int:
        """Count one more. Returns how many there are now where that is 1, 2, 4, 8, …, else 0: floods spare the log."""
        self.total += 1
        key = (what, who)
        if key not in self.counts and len(self.counts) >= _MAX_COUNTED:
            key = ("others", "others")
        self.counts[key] += 1
        count = self.counts[key]
        return 0 if count & (count - 1) else count


def inspect(ticket: Ticket, manifest: Manifest, result: Result, payload: Buffer | None) -> Pixels | Flaw:
    """Look at the frame that came for a ticket, and decode it where it is coded.

    Args:
        ticket: what was asked for.
        manifest: of the producer that sends it.
        result: what it says of the frame.
        payload: the frame, or None where there was none.
    """
    if payload is None:
        return Flaw("frame_count", "the pixels' frame is missing")
    if (flaw := _flaw_of_frame(ticket, manifest, result, payload)) is not None:
        return flaw
    recipe = ticket.recipe
    nbytes = memoryview(payload).nbytes
    try:
        pixels = decode_jpegs(payload, result.sizes, recipe.shape) if result.codec == JPEG else payload
    except ValueError as error:
        return Flaw("jpeg", str(error))
    if (image := _first_blank(memoryview(pixels).cast("B"), recipe.num_images)) is not None:
        # What a safety checker leaves of an image that it dislikes.
        return Flaw(BLANK, f"image {image} of {recipe.num_images} is all black")
    return Pixels(bytearray(pixels) if pixels is payload and nbytes < _SHARED_FRAME_BYTES else pixels, nbytes)


def _first_blank(pixels: memoryview, num_images: int) -> int | None:
    """The first image that is all zero. A few bytes of each tell nearly always that none is."""
    nbytes = pixels.nbytes // num_images
    step = max(1, nbytes // _GLANCE_BYTES)
    for image in range(num_images):
        mine = pixels[image * nbytes : (image + 1) * nbytes]
        if not any(mine[::step]) and not np.frombuffer(mine, np.uint8).any():
            return image
    return None


def _flaw_of_frame(ticket: Ticket, manifest: Manifest, result: Result, payload: Buffer) -> Flaw | None:
    """What is wrong before any pixel is decoded."""
    recipe = ticket.recipe
    if result.shape != recipe.shape:
        return Flaw("shape", f"expected {recipe.shape}, got {result.shape}")
    if (wrong := _wrong_choice(recipe, result)) is not None:
        return Flaw("candidates", wrong)
    nbytes = memoryview(payload).nbytes
    if result.codec == JPEG:
        if not manifest.is_lossy:
            return Flaw("codec", f"{JPEG} from a producer whose manifest says {manifest.codec}")
        if len(result.sizes) != recipe.num_images or sum(result.sizes) != nbytes:
            told = f"{len(result.sizes)} of {sum(result.sizes)} bytes in all"
            return Flaw("size", f"expected {recipe.num_images} sizes of {nbytes} bytes, the frame's, got {told}")
        if nbytes >= recipe.nbytes:
            return Flaw("size", f"JPEGs must be smaller than the {recipe.nbytes} bytes of their pixels, got {nbytes}")
    elif nbytes != recipe.nbytes or result.sizes:
        told = f" and {len(result.sizes)} sizes" if result.sizes else ""
        return Flaw("size", f"shape {result.shape} needs {recipe.nbytes} bytes, got {nbytes}{told}")
    if (checksum := crc32(payload)) != result.crc32:
        return Flaw("checksum", f"expected {result.crc32:#010x}, got {checksum:#010x}")
    return None


def _wrong_choice(recipe: Recipe, result: Result) -> str | None:
    """What is wrong with what a result says of the filter; None where it can be true."""
    chosen, made, unsatisfied = result.candidates, result.num_made, result.num_unsatisfied
    if not recipe.is_filtered:
        told = f"{len(chosen)} of {made} candidates, {unsatisfied} unsatisfied"
        return f"no filter was asked for, got {told}" if chosen or made or unsatisfied else None
    if not recipe.num_candidates <= made <= recipe.max_candidates:
        return f"expected {recipe.num_candidates} to {recipe.max_candidates} to be made, got {made}"
    if len(chosen) != recipe.num_images:
        return f"expected {recipe.num_images} candidates, got {len(chosen)}"
    if list(chosen) != sorted(chosen) or chosen[-1] >= made:
        return f"expected ascending numbers below the {made} made, got {chosen!r:.80}"
    most = recipe.num_images if made == recipe.max_candidates else 0
    if unsatisfied > most:
        return f"expected at most {most} unsatisfied of {made} made, got {unsatisfied}"
    return None
