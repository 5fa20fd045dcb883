"""The tickets that are made of prompts, and who owns which index."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.config import TrainConfig
from penstock.consumer.making_config import GeneratorConfig, PromptsConfig
from penstock.consumer.ownership import owned_indices
from penstock.consumer.prompts.captions import ShuffledCaptions
from penstock.consumer.prompts.opening import open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.writer import TicketWriter
from penstock.protocol.tickets import group_seed, prompt_id
from tests.consumer.prompts.files.opened import write

DIGEST = "d" * 64


@given(st.integers(1, 9), st.integers(0, 100))
def test_the_ranks_own_every_index_once(world_size: int, start: int) -> None:
    taken = []
    for rank in range(world_size):
        owned = owned_indices(rank, world_size, start)
        mine = [next(owned) for _ in range(10)]
        assert all(index % world_size == rank and index >= start for index in mine)
        taken += mine
    assert sorted(taken) == list(range(start, start + 10 * world_size))


def _source(tmp_path: Path) -> PromptSource:
    path = write(tmp_path, b"fox\ta fox\nfox\tA  fox\ndog\ta dog\n")
    return open_source(PromptsConfig(source=str(path)), 11)


def _writer(source: PromptSource) -> TicketWriter:
    guidance = {"guidance_scale": 1.5, "guidance_rescale": 0.7, "guidance_start": 0.2, "guidance_stop": 0.8}
    sizes = {"native_height": 64, "native_width": 96, "height": 16, "width": 24}
    generator = GeneratorConfig(images_per_group=3, num_inference_steps=2, **guidance, **sizes)  # type: ignore[arg-type]
    return TicketWriter(source, TrainConfig(seed=11, generator=generator), DIGEST)


def test_a_ticket_carries_the_configuration_and_its_own_seed(tmp_path: Path) -> None:
    writer = _writer(_source(tmp_path))
    for index in range(9):
        ticket = writer.write(index, index % 3, need_by_step=index + 5)
        assert (ticket.index, ticket.rank, ticket.attempt, ticket.stand_in) == (index, index % 3, 0, 0)
        assert ticket.need_by_step == index + 5
        recipe = ticket.recipe
        assert recipe.shape == (3, 16, 24, 3)
        assert (recipe.native_height, recipe.native_width) == (64, 96)
        assert (recipe.guidance_rescale, recipe.guidance_start, recipe.guidance_stop) == (0.7, 0.2, 0.8)
        assert (recipe.guidance_scales, recipe.num_inference_steps, recipe.scheduler) == ((1.5,), 2, "default")
        assert recipe.model_digest == DIGEST
        assert recipe.seed == group_seed(11, prompt_id(recipe.prompt), index)


def test_a_ticket_s_concept_is_that_of_its_prompt(tmp_path: Path) -> None:
    source = _source(tmp_path)
    writer = _writer(source)
    for index in range(9):
        ticket = writer.write(index, 0, 0)
        for one in (ticket, writer.stand_in(ticket)):
            assert source.concepts[writer.concept(one)] in one.recipe.prompt


def test_captions_without_concepts_are_not_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(PromptsConfig(source=str(write(tmp_path, b"a fox\na dog\n"))), 11)
    writer = _writer(source)
    ticket = writer.write(0, 0, 0)
    monkeypatch.setattr(ShuffledCaptions, "prompt", lambda source, index: pytest.fail("a caption was read"))
    assert (writer.concept(ticket), writer.concept_name(ticket)) == (-1, "")


def test_equal_prompts_share_a_label_and_no_image(tmp_path: Path) -> None:
    writer = _writer(_source(tmp_path))
    tickets = [writer.write(index, 0, 0) for index in range(30)]
    foxes = [ticket for ticket in tickets if "fox" in ticket.recipe.prompt]
    assert {ticket.recipe.prompt for ticket in foxes} == {"a fox", "A  fox"}
    assert len({prompt_id(ticket.recipe.prompt) for ticket in foxes}) == 1
    seeds = [seed for ticket in tickets for seed in ticket.recipe.image_seeds]
    assert len(set(seeds)) == len(seeds)


def test_a_stand_in_has_the_place_of_its_group_and_another_recipe(tmp_path: Path) -> None:
    source = _source(tmp_path)
    writer = _writer(source)
    poison = writer.write(6, 0, need_by_step=4)
    first = writer.stand_in(poison)
    second = writer.stand_in(first)
    assert [(ticket.index, ticket.rank, ticket.need_by_step) for ticket in (first, second)] == [(6, 0, 4)] * 2
    assert (first.stand_in, second.stand_in) == (1, 2)
    assert len({poison.recipe.seed, first.recipe.seed, second.recipe.seed}) == 3
    assert writer.write(6, 0, need_by_step=4, stand_in=2) == second, "and so it can be made again in another life"
    assert first.recipe.prompt == source.prompt(6 + 2**40).text
    assert first.recipe.seed == group_seed(11, prompt_id(first.recipe.prompt), 6 + 2**40)
