"""What the producing service asks of an engine. The engines themselves have files of their own, and torch with them."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.messages import Choice
from penstock.protocol.tickets import Manifest, Ticket

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A group whose images a filter chose."""

    images: Images
    """uint8 [m, H, W, 3]."""
    choice: Choice


Made = Images | Chosen | ModelError
"""A group, uint8 [m, H, W, 3], or why this model cannot make it."""
Pending = Callable[[], list[Made]]
"""Waits until the device is done and gives what has become of each ticket, in their order. Called once."""


class Engine(Protocol):
    """Makes groups from tickets."""

    work: Work
    """What has been made so far. Whoever waits for the device counts its time."""

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another; known before `load`."""

    def load(self) -> None:
        """Load weights and warm up, once, before the first `generate`. May take minutes. Raises ModelError."""

    def company(self, ticket: Ticket) -> Hashable:
        """Tickets for which this is equal can be made together."""

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """Begin to make one group per ticket; returns as soon as the device can go on alone.

        Args:
            tickets: at least one; they can be made together.

        Raises ModelError where no ticket can be made.
        """


def make(engine: Engine, tickets: Sequence[Ticket]) -> list[Images]:
    """The images of all tickets, waited for. Raises ModelError where one of them cannot be made."""
    groups: list[Images] = []
    for made in engine.generate(tickets)():
        if isinstance(made, ModelError):
            raise made
        groups.append(made.images if isinstance(made, Chosen) else made)
    return groups
