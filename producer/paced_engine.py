"""An engine whose work is a calibrated sleep: a fleet larger than the machine, through the real protocol.

What the wire, the trainer's data path and a launcher do under 64 producers can be seen on two cores, because waiting
costs nothing. `penstock produce --backend paced --paced-images-per-s 1.25` is as fast as an A100 with Stable Diffusion
1.5 at 50 steps. Its images are a cheap pure function of the ticket, and good for nothing else.
"""

from collections.abc import Hashable, Sequence

from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Pending
from penstock.producer.noise import noise
from penstock.producer.work import Work
from penstock.protocol.tickets import Manifest, Ticket
from penstock.telemetry.pace import Pace

MODEL_DIGEST = "9aced"
"""Digest of no weights."""


class PacedEngine:
    """Takes `images / images_per_s` seconds for a batch of so many images; padding takes none.

    Args:
        config: its rate.
    """

    def __init__(self, config: ProduceConfig) -> None:
        self._images_per_s = config.paced_images_per_s
        self._pace = Pace()
        self.work = Work()
        self._manifest = Manifest(
            model="paced",
            model_digest=MODEL_DIGEST,
            scheduler="none",
            dtype="uint8",
            backend=config.backend,
            device="none",
            batch_images=config.batch_images,
            versions={},
        )

    @property
    def manifest(self) -> Manifest:
        """Says that nothing is generated."""
        return self._manifest

    def load(self) -> None:
        """There is nothing to load."""

    def company(self, ticket: Ticket) -> Hashable:
        """Whatever is asked for can be slept together."""
        return None

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """One group per ticket, uint8 [m, H, W, 3], after as long as so many images take."""
        num_images = sum(ticket.recipe.num_images for ticket in tickets)
        with self._pace.lasting(num_images / self._images_per_s):
            groups = [noise(ticket.recipe) for ticket in tickets]
        self.work.images += num_images
        return lambda: [*groups]
