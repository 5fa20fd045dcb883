"""What a stream gives: the groups that have come, and what became of tickets that nobody could make."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.tickets import Manifest, Ticket


@dataclass(frozen=True, slots=True)
class Group:
    """The m images made for one ticket."""

    ticket: Ticket
    images: NDArray[np.uint8]
    """uint8 [m, H, W, 3]; where it came raw and is not small, a view of the frame that came off the wire."""
    producer: str
    manifest: Manifest
    """What made it; equal manifests promise equal bits."""
    candidates: tuple[int, ...] = ()
    """Which of the recipe's candidates a filter chose, length m; empty without a filter. `Recipe.choose` makes of them
    the recipe of exactly these images."""
    num_made: int = 0
    """Candidates that were made and scored for it; 0 without a filter."""
    num_unsatisfied: int = 0
    """Images of it that the filter had rejected, and that make up what lacked when all candidates were made."""
    crc32: int = 0
    """CRC-32 of the frame as it was sent: raw pixels, or JPEGs."""
    arrived_ns: int = 0
    """When it came, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A ticket that no producer could make, and what stands in for it."""

    ticket: Ticket
    reason: str
    stand_in: Ticket
