"""The sampler: makes a ticket of any global index. Rank r of w owns the indices ≡ r (mod w)."""

from typing import Any, Protocol, runtime_checkable

from penstock.config.rules import require
from penstock.consumer.config import TrainConfig
from penstock.consumer.guidance import Guidance, read_schedule
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.prompts.source import Prompt, PromptSource
from penstock.consumer.schedule import first_due
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
        scorer_digest: of what filters the images; empty where nothing does.
    """

    def __init__(self, source: PromptSource, config: TrainConfig, model_digest: str, scorer_digest: str = "") -> None:
        self._source = source
        # Looked at once: a protocol is slow to look for, and every ticket asks.
        self._real = source if isinstance(source, HasRealGroups) else None
        self._generator: GeneratorConfig = config.generator
        self._seed = config.seed
        self._model_digest = model_digest
        self._filter = _filter_fields(config, scorer_digest)
        self._guidance = open_guidance(config)

    def write(self, index: int, rank: int, need_by_step: int, stand_in: int = 0) -> Ticket:
        """The ticket for the group at global `index`, asked for by `rank`; its `stand_in`-th stand-in where not 0."""
        prompt = self._prompt(index, stand_in).text
        place = _source_index(index, stand_in)
        generated: dict[str, Any] = {
            "model_digest": self._model_digest,
            "guidance_scales": self._guidance.scales(index, place),
            **self._filter,
        }
        if self._real and self._real.is_real(index):
            generated = {
                "model_digest": self._real.real_digest,
                "guidance_scales": (self._generator.guidance_scale,),
            }
        recipe = Recipe(
            prompt=prompt,
            seed=group_seed(self._seed, prompt_id(prompt), place),
            num_images=self._generator.images_per_group,
            guidance_rescale=self._generator.guidance_rescale,
            guidance_start=self._generator.guidance_start,
            guidance_stop=self._generator.guidance_stop,
            num_inference_steps=self._generator.num_inference_steps,
            scheduler=self._generator.scheduler,
            native_height=self._generator.native_height,
            native_width=self._generator.native_width,
            height=self._generator.height,
            width=self._generator.width,
            **generated,
        )
        return Ticket(index=index, rank=rank, need_by_step=need_by_step, stand_in=stand_in, recipe=recipe)

    def stand_in(self, ticket: Ticket) -> Ticket:
        """What to ask for instead of a ticket that no producer can make: another recipe for the same place."""
        return self.write(ticket.index, ticket.rank, ticket.need_by_step, ticket.stand_in + 1)

    def concept(self, ticket: Ticket) -> int:
        """The class of a ticket's prompt: a place in the source's concepts, -1 where it has none."""
        # A caption that has none need not be looked up again.
        return self._prompt(ticket.index, ticket.stand_in).concept if self._source.concepts else -1

    def concept_name(self, ticket: Ticket) -> str:
        """The name of that class; empty where it has none."""
        concept = self.concept(ticket)
        return self._source.concepts[concept] if concept >= 0 else ""

    def _prompt(self, index: int, stand_in: int) -> Prompt:
        return self._source.prompt(_source_index(index, stand_in))


def _source_index(index: int, stand_in: int) -> int:
    """Whose prompt and seed a group has: a stand-in's are of an index that no run reaches, so that it repeats none."""
    return index + stand_in * STAND_IN_STRIDE


def open_guidance(config: TrainConfig) -> Guidance:
    """The guidance scales that a run's settings ask for."""
    generator, policy = config.generator, config.reservoir.reuse_policy
    return Guidance(
        generator.guidance_scale,
        generator.guidance_scales,
        generator.guidance_range,
        read_schedule(generator.guidance_schedule, require),
        seed=config.seed,
        num_images=generator.images_per_group,
        first_due=lambda index: first_due(index, config.capacity_groups, config.groups_per_step, policy),
    )


def _filter_fields(config: TrainConfig, scorer_digest: str) -> dict[str, Any]:
    """What a recipe says of the filter. Raises ValueError where nothing could score for one that is asked for."""
    if not config.filter.is_on:
        return {}
    if not scorer_digest:
        raise ValueError("filter must have a scorer, got none")
    num_candidates = config.filter.num_candidates(config.generator.images_per_group)
    return {
        "scorer_digest": scorer_digest,
        "min_score": -1.0 if config.filter.min_score is None else config.filter.min_score,
        "num_candidates": num_candidates,
        "max_candidates": config.filter.most_candidates(config.generator.images_per_group),
    }
