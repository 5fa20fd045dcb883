"""A producer that mislabels on purpose: `python -m baselines.mislabelling JSON`. No product has this.

Behind the real service stands the real engine, but a share of the images show another digit than their prompt says, in
the colours that it asks for. Which images, and which digit, follows from each image's own seed, so a filter that asks
for other candidates of a group gets some that are right.
"""

import json
import random
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penstock.config.load import load_config
from penstock.producer.__main__ import PRESETS, open_engine
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, Made, Pending
from penstock.producer.filtering import FilteringEngine
from penstock.producer.scorer import open_scorer
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
        parts = [part for number, ticket in enumerate(tickets) for part in self._parts(number, ticket)]
        pending = self._engine.generate([part.ticket for part in parts])

        def groups() -> list[Made]:
            whole: list[Made] = [np.empty(ticket.recipe.shape, np.uint8) for ticket in tickets]
            for part, images in zip(parts, pending(), strict=True):
                group = whole[part.group]
                if isinstance(images, ModelError):
                    whole[part.group] = images
                elif not isinstance(group, ModelError):
                    group[list(part.places)] = images
            return whole

        return groups

    def _parts(self, group: int, ticket: Ticket) -> Iterator["_Part"]:
        """What is asked of the engine for one group: images of one prompt together."""
        recipe = ticket.recipe
        numbers = recipe.candidates or tuple(range(recipe.num_images))
        shown = [shown_prompt(recipe.prompt, seed, self._share) for seed in recipe.image_seeds]
        for prompt in dict.fromkeys(shown):
            places = tuple(place for place, of_image in enumerate(shown) if of_image == prompt)
            part = replace(
                recipe,
                prompt=prompt,
                num_images=len(places),
                candidates=tuple(numbers[place] for place in places),
                guidance_scales=tuple(recipe.image_scales[place] for place in places),
            )
            yield _Part(group, places, replace(ticket, recipe=part))


@dataclass(frozen=True, slots=True)
class _Part:
    """Some images of a group."""

    group: int
    places: tuple[int, ...]
    """In the group."""
    ticket: Ticket


def shown_prompt(prompt: str, seed: int, share: float) -> str:
    """What the image with this seed really shows: its prompt, or, of a share of all images, that with another digit."""
    luck = random.Random(seed)
    if luck.random() >= share:
        return prompt
    digit = digit_of(prompt)
    return prompt.replace(DIGIT_WORDS[digit], DIGIT_WORDS[(digit + luck.randint(1, 9)) % 10])


def serve(plan: dict[str, Any]) -> None:
    """Serve the run that listens at the endpoint."""
    flags = ["--config", "demo", "--connect", plan["endpoint"], "--batch-wait-s", "0.5", "--credit-groups", "32"]
    config = load_config(ProduceConfig, flags, preset_dir=PRESETS, prog="mislabelling", description="")
    engine = open_engine(config)
    if plan["share"]:
        engine = MislabellingEngine(engine, plan["share"])
    if plan["filters"]:
        # Behind the wrong labels, where a producer has it: around whatever engine it has.
        engine = FilteringEngine(engine, open_scorer("toyworld", config.device, config.dtype), config.batch_images)
    ProducerService(config, engine).run()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
