"""Whether the pixels that came are what the ticket asked for, and how what is refused is counted."""

import zlib
from collections import Counter

import numpy as np

from penstock.protocol.actions import Buffer
from penstock.protocol.messages import Result
from penstock.protocol.tickets import Ticket

_MAX_COUNTED = 1024
"""Pairs that are counted apart; what comes beyond them is counted as others."""
BLANK = "blank"
"""The one fault that may lie with the ticket."""


class Tally:
    """Counts what happens by kind and by who did it, in bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By (what, who)."""

    def counts_round(self, what: str, who: str) -> int:
        """Count one more. Returns how many there are now where that is 1, 2, 4, 8, …, else 0: floods spare the log."""
        key = (what, who)
        if key not in self.counts and len(self.counts) >= _MAX_COUNTED:
            key = ("others", "others")
        self.counts[key] += 1
        count = self.counts[key]
        return 0 if count & (count - 1) else count


def fault_of(ticket: Ticket, result: Result, payload: Buffer | None) -> tuple[str, str] | None:
    """Why a result's pixels cannot be what its ticket asked for, as a word and a sentence; or None."""
    if payload is None:
        return "frame_count", "the pixels' frame is missing"
    recipe = ticket.recipe
    if result.shape != recipe.shape:
        return "shape", f"expected {recipe.shape}, got {result.shape}"
    nbytes = memoryview(payload).nbytes
    if nbytes != recipe.nbytes:
        return "size", f"shape {result.shape} needs {recipe.nbytes} bytes, got {nbytes}"
    crc32 = zlib.crc32(payload)
    if crc32 != result.crc32:
        return "checksum", f"expected {result.crc32:#010x}, got {crc32:#010x}"
    blank = np.flatnonzero(~np.frombuffer(payload, np.uint8).reshape(recipe.num_images, -1).any(axis=1))
    if len(blank):
        # What a safety checker leaves of an image that it dislikes.
        return BLANK, f"image {blank[0]} of {recipe.num_images} is all black"
    return None
