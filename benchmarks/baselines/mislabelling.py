"""A producer that mislabels on purpose: `python -m baselines.mislabelling JSON`. No product has this.

Behind the real service stands the real engine, but a share of the images show another digit than their prompt says, in
the colours that it asks for. Which images, and which digit, follows from each image's own seed, so a filter that asks
for other candidates of a group gets some that are right.
"""

import json
import random
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
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Ticket
from penstock.toyworld.captions import DIGIT_WORDS, digit_of


class MislabellingEngine:
    """An engine some of whose images show another digit than they should.

    Args:
        engine: makes the images.
        share: of the images that are wrong, in [0, 1].
    """

    def __init__(self, engine: Engine, share: float) -> None:
        self._engine = engine
        self._share = share

    @property
    def work(self) -> Work:
        """The engine's own."""
        return self._engine.work

    @property
    def manifest(self) -> Manifest:
        """The engine's own, and that it mislabels."""
        manifest = self._engine.manifest
        return replace(manifest, settings=manifest.settings | {"mislabelled": f"{self._share:g}"})

    def load(self) -> None:
        """Load the engine."""
        self._engine.load()

    def company(self, ticket: Ticket) -> Hashable:
        """The engine's own."""
        return self._engine.company(ticket)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """See `penstock.producer.engine.Engine`."""
        whole = [(number, None, ticket) for number, ticket in enumerate(tickets)]
        parts = [
            (n, i, replace(t, recipe=replace(t.recipe, prompt=self.shown(t.recipe.prompt, t.recipe.image_seeds[i]))))
            for n, _, t in whole
            for i in range(t.recipe.num_images)
            if self.shown(t.recipe.prompt, t.recipe.image_seeds[i]) != t.recipe.prompt
        ]
        pending = self._engine.generate([*tickets, *(p[2] for p in parts)])

        def finish():
            made = pending()
            groups = [m.copy() for m in made[: len(tickets)]]
            for (n, i, _), m in zip(parts, made[len(tickets) :], strict=True):
                groups[n][i] = m[i]
            return groups

        return finish

    def shown(self, prompt: str, seed: int) -> str:
        """The prompt of what an image really shows, by the image's seed."""
        rng = random.Random(seed)
        if rng.random() >= self._share:
            return prompt
        digit = digit_of(prompt)
        other = (digit + rng.randint(1, 9)) % 10 if not PAIR else (digit + 1) % 10
        return prompt.replace(DIGIT_WORDS[digit], DIGIT_WORDS[other])


import os

PAIR = os.environ.get("PAIR") == "1"


def serve(plan: dict[str, Any]) -> None:
    """Serve the run that listens at the endpoint."""
    flags = ["--config", "demo", "--connect", plan["endpoint"], "--batch-wait-s", "0.5", "--credit-groups", "32"]
    config = load_config(ProduceConfig, flags, preset_dir=PRESETS, prog="mislabelling", description="")
    engine = open_engine(config)
    ProducerService(config, MislabellingEngine(engine, plan["share"]) if plan["share"] else engine).run()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
