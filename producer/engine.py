"""What the producing service asks of an engine. The engines themselves have files of their own, and torch with them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.tickets import Manifest, Ticket

Images = NDArray[np.uint8]


class Engine(Protocol):
    """Makes groups from tickets."""

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another; known before `load`."""

    def load(self) -> None:
        """Load weights and warm up, once, before the first `generate`. May take minutes. Raises ModelError."""

    def generate(self, tickets: Sequence[Ticket]) -> list[Images]:
        """One group per ticket, uint8 [m, H, W, 3]. The tickets agree in all but prompt, seed and place.

        Raises ModelError where the model cannot make them.
        """
