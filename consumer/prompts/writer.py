"""The sampler: makes a ticket of any global index. Rank r of w owns the indices ≡ r (mod w)."""

from typing import Protocol, runtime_checkable

from penstock.consumer.config import GeneratorConfig, TrainConfig
from penstock.consumer.prompts.source import Prompt, PromptSource
from penstock.protocol.tickets import Recipe, Ticket, group_seed, prompt_id

STAND_IN_STRIDE = 1 << 40
"""Indices between a group's recipe and that of its stand-in: more than a run has groups."""


@runtime_checkable
class HasRealGroups(Protocol):
    """A source some of whose groups are real."""

    real_digest: str
    """Of the set that they are looked up in."""

    def is_real(self, index: int) -> bool:
        """Whether the group at global `index` is."""


class TicketWriter:
    """Writes the ticket of any global index.

    Args:
        source: the run's captions.
        config: the run's.
        model_digest: of the generator; empty where every group is real.
    """

    def __init__(self, source: PromptSource, config: TrainConfig, model_digest: str) -> None:
        self._source = source
        self._generator: GeneratorConfig = config.generator
        self._seed = config.seed
        self._model_digest = model_digest

    def write(self, index: int, rank: int, need_by_step: int, stand_in: int = 0) -> Ticket:
        """The ticket for the group at global `index`, asked for by `rank`; its `stand_in`-th stand-in where not 0."""
        prompt = self._prompt(index, stand_in).text
        model_digest = self._model_digest
        if isinstance(self._source, HasRealGroups) and self._source.is_real(index):
            model_digest = self._source.real_digest
        recipe = Recipe(
            prompt=prompt,
            seed=group_seed(self._seed, prompt_id(prompt), _source_index(index, stand_in)),
            num_images=self._generator.images_per_group,
            guidance_scales=(self._generator.guidance_scale,),
            guidance_rescale=self._generator.guidance_rescale,
            guidance_start=self._generator.guidance_start,
            guidance_stop=self._generator.guidance_stop,
            num_inference_steps=self._generator.num_inference_steps,
            scheduler=self._generator.scheduler,
            native_height=self._generator.native_height,
            native_width=self._generator.native_width,
            height=self._generator.height,
            width=self._generator.width,
            model_digest=model_digest,
        )
        return Ticket(index=index, rank=rank, need_by_step=need_by_step, stand_in=stand_in, recipe=recipe)

    def stand_in(self, ticket: Ticket) -> Ticket:
        """What to ask for instead of a ticket that no producer can make: another recipe for the same place."""
        return self.write(ticket.index, ticket.rank, ticket.need_by_step, ticket.stand_in + 1)

    def concept(self, ticket: Ticket) -> int:
        """The class of a ticket's prompt: a place in the source's concepts, -1 where it has none."""
        return self._prompt(ticket.index, ticket.stand_in).concept

    def concept_name(self, ticket: Ticket) -> str:
        """The name of that class; empty where it has none."""
        concept = self.concept(ticket)
        return self._source.concepts[concept] if concept >= 0 else ""

    def _prompt(self, index: int, stand_in: int) -> Prompt:
        return self._source.prompt(_source_index(index, stand_in))


def _source_index(index: int, stand_in: int) -> int:
    """Whose prompt and seed a group has: a stand-in's are of an index that no run reaches, so that it repeats none."""
    return index + stand_in * STAND_IN_STRIDE
