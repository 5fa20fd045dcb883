"""A producer that serves one run after another and remembers what it has made: `python -m paper.image_memory JSON`.

Its engine is the real one behind the real service. A group asked for again, by the next run with the same seed and
guidance, comes from memory: bit for bit what any producer with this manifest would make, because the ticket fixes it.
Image i of a group does not depend on how many there are, so a smaller group is the beginning of a larger one.
"""

import json
import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.config.load import load_config
from penstock.producer.__main__ import PRESETS, open_engine
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, Images, Made, Pending
from penstock.producer.service import ProducerService
from penstock.producer.work import Work
from penstock.protocol.tickets import Manifest, Recipe, Ticket


class RememberingEngine:
    """An engine that makes each image once.

    Args:
        engine: makes what is not remembered.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made: dict[Recipe, Images] = {}
        self._loaded = False

    @property
    def work(self) -> Work:
        """What was made, not what was remembered."""
        return self._engine.work

    @property
    def manifest(self) -> Manifest:
        """The engine's own."""
        return self._engine.manifest

    def load(self) -> None:
        """Load the engine once, however many runs it serves."""
        if not self._loaded:
            self._engine.load()
            self._loaded = True

    def company(self, ticket: Ticket) -> Hashable:
        """What is remembered needs no company; the rest keeps the engine's."""
        return "remembered" if self._recall(ticket) is not None else self._engine.company(ticket)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """See `penstock.producer.engine.Engine`."""
        known: list[Made] = [images for ticket in tickets if (images := self._recall(ticket)) is not None]
        if len(known) == len(tickets):
            return lambda: known
        pending = self._engine.generate(tickets)

        def finish() -> list[Made]:
            made = pending()
            for ticket, images in zip(tickets, made, strict=True):
                if isinstance(images, np.ndarray):
                    self._made[_key(ticket)] = images.copy()
            return made

        return finish

    def _recall(self, ticket: Ticket) -> Images | None:
        known = self._made.get(_key(ticket))
        num_images = ticket.recipe.num_images
        return None if known is None or len(known) < num_images else known[:num_images]


def _key(ticket: Ticket) -> Recipe:
    return replace(ticket.recipe, num_images=1)


def serve(plan: dict[str, Any]) -> None:
    """Serve whatever run listens at the endpoint, one after the other, until this process is ended."""
    flags = ["--config", "demo", "--connect", plan["endpoint"], "--batch-wait-s", "0.5"]
    # Two batches, also where a group is one image.
    flags += ["--credit-groups", "128"]
    config = load_config(ProduceConfig, flags, preset_dir=PRESETS, prog="image_memory", description="")
    engine = RememberingEngine(open_engine(config))
    while True:
        ProducerService(config, engine).run()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
