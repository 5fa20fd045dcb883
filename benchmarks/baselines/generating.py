"""Ways to make images with one Stable Diffusion folder: diffusers' own call, Penstock's engine, its whole service.

All make the same groups: the ticket of an index has a prompt of its own and one setting for everything.
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from baselines.over_penstock import no_stand_in, open_stream
from baselines.sender import SPAWN
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Engine, Pending
from penstock.producer.service import ProducerService
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed

END_S = 30.0


@dataclass(frozen=True)
class Asked:
    """What is made."""

    images_per_group: int
    guidance_scale: float
    num_inference_steps: int
    side: int

    def tickets(self, start: int, num_groups: int, model_digest: str) -> list[Ticket]:
        """The tickets of the groups from index `start` on."""
        return [self.ticket(index, model_digest) for index in range(start, start + num_groups)]

    def ticket(self, index: int, model_digest: str, native_side: int = 0) -> Ticket:
        """The ticket of one group, generated at a size of its own where `native_side` is not 0."""
        recipe = Recipe(
            prompt=f"a handwritten {index % 10} number {index}",
            seed=group_seed(0, 0, index),
            num_images=self.images_per_group,
            guidance_scales=(self.guidance_scale,),
            num_inference_steps=self.num_inference_steps,
            scheduler="default",
            native_height=native_side,
            native_width=native_side,
            height=self.side,
            width=self.side,
            model_digest=model_digest,
        )
        return Ticket(index=index, rank=0, need_by_step=index, recipe=recipe)


def by_pipeline(pipeline: Any, tickets: Sequence[Ticket]) -> torch.Tensor:
    """Diffusers' own call at its best for groups of equal settings: images [B, 3, H, W] in 0..1."""
    first = tickets[0].recipe
    with torch.inference_mode():
        images: torch.Tensor = pipeline(
            prompt=[ticket.recipe.prompt for ticket in tickets],
            # Each text is encoded once for its images.
            num_images_per_prompt=first.num_images,
            generator=[torch.Generator().manual_seed(seed) for ticket in tickets for seed in ticket.recipe.image_seeds],
            guidance_scale=first.guidance_scales[0],
            num_inference_steps=first.num_inference_steps,
            height=first.native_height or None,
            width=first.native_width or None,
            output_type="pt",
        ).images
    return images


class Watched:
    """An engine whose batches are noted: when each begins, and how many images it has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.work = engine.work
        self.begun: list[tuple[float, int]] = []

    @property
    def manifest(self) -> Manifest:
        """The engine's."""
        return self._engine.manifest

    def load(self) -> None:
        """It is loaded."""

    def company(self, ticket: Ticket) -> Hashable:
        """The engine's."""
        return self._engine.company(ticket)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """The engine's."""
        self.begun.append((time.perf_counter(), sum(ticket.recipe.num_images for ticket in tickets)))
        return self._engine.generate(tickets)


def service_rate(engine: Engine, config: ProduceConfig, asked: Asked, num_groups: int) -> float:
    """Images per second of a producing service with a rank in another process, from its second batch to its last."""
    watched = Watched(engine)
    ours, theirs = SPAWN.Pipe()
    rank = SPAWN.Process(target=take, args=(theirs, asked, num_groups, engine.manifest.model_digest), daemon=True)
    rank.start()
    try:
        if not ours.poll(END_S):
            raise RunError("the rank did not start")
        settings = {"connect": ours.recv(), "batch_images": config.batch_images, "trainer_timeout_s": END_S}
        ProducerService(ProduceConfig(**settings), watched).run()
    finally:
        rank.join(END_S)
        rank.kill()
        rank.join()
    (start, _), (end, _) = watched.begun[1], watched.begun[-1]
    return sum(images for _, images in watched.begun[1:-1]) / (end - start)


def take(parent: Connection, asked: Asked, num_groups: int, model_digest: str) -> None:
    """A rank that takes so many groups and says BYE."""
    stream, endpoint = open_stream(asked.ticket(0, model_digest).recipe)
    stream.start()
    try:
        stream.ask(iter(asked.tickets(0, num_groups, model_digest)), no_stand_in)
        parent.send(endpoint)
        for _ in range(num_groups):
            stream.get()
    finally:
        stream.close("the round is over")
