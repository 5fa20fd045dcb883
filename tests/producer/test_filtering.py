"""Which of a ticket's candidates a filter chooses, worked out by hand; engine and scorer only look numbers up."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.producer import filtering
from penstock.producer.engine import Chosen, Made, Pending
from penstock.producer.filtering import FilteringEngine
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.messages import Choice
from penstock.protocol.tickets import Manifest, Recipe, Ticket, image_seed
from tests.protocol.samples import MANIFEST

SCORER = "5c"
RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=2,
    guidance_scales=(1.0,),
    num_inference_steps=1,
    scheduler="default",
    height=1,
    width=3,
    model_digest="d1",
)


class SeedEngine:
    """Writes the eight bytes of an image's seed, and the thousandths of its guidance, into its pixels."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.work = Work()
        self.manifest: Manifest = MANIFEST
        self.batches: list[list[int]] = []
        """Images of each ticket, batch by batch."""
        self.broken = broken
        """Seeds of groups that cannot be made."""

    def load(self) -> None:
        """Nothing."""

    def company(self, ticket: Ticket) -> Hashable:
        """By the number of steps."""
        return ticket.recipe.num_inference_steps

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """As the class says."""
        assert not any(ticket.recipe.is_filtered for ticket in tickets)
        assert len({self.company(ticket) for ticket in tickets}) == 1
        self.batches.append([ticket.recipe.num_images for ticket in tickets])
        made: list[Made] = []
        for ticket in tickets:
            recipe = ticket.recipe
            if recipe.seed in self.broken:
                made.append(ModelError("it cannot be made"))
                continue
            pairs = zip(recipe.image_seeds, recipe.image_scales, strict=True)
            rows = [list(seed.to_bytes(8) + bytes([round(10 * scale)])) for seed, scale in pairs]
            made.append(np.array(rows, np.uint8).reshape(recipe.shape))
        return lambda: made


class TableScorer:
    """Scores by a table of group seeds: of candidate c the c-th score, and 0 of some beyond them."""

    digest = SCORER

    def __init__(self, table: dict[int, Sequence[float]]) -> None:
        padded = {seed: [*scores, *[0.0] * 8] for seed, scores in table.items()}
        self.scores = {image_seed(seed, c): score for seed, scores in padded.items() for c, score in enumerate(scores)}
        self.num_scored: list[int] = []

    def load(self) -> None:
        """Nothing."""

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Looked up by the seed that stands in the pixels."""
        assert len(images) == len(prompts)
        self.num_scored.append(len(images))
        seeds = [int.from_bytes(bytes(image.reshape(-1)[:8].tolist())) for image in images]
        return np.array([self.scores[seed] for seed in seeds], np.float32)


def a_ticket(index: int, **recipe: Any) -> Ticket:
    fields: dict[str, Any] = {"seed": index, "scorer_digest": SCORER, "num_candidates": 2, "max_candidates": 8} | recipe
    return Ticket(index=index, rank=0, recipe=replace(RECIPE, **fields))


def chosen(made: Made) -> Choice:
    assert isinstance(made, Chosen)
    return made.choice


def elect(scores: Sequence[float], **recipe: Any) -> Choice:
    engine = FilteringEngine(SeedEngine(), TableScorer({3: scores}), 4)
    [made] = engine.generate([a_ticket(3, **recipe)])()
    return chosen(made)


@pytest.mark.parametrize(
    ("scores", "recipe", "expected"),
    [
        # By a threshold: each rejection takes the next candidate.
        ([0.9, 0.8], {"min_score": 0.5}, Choice((0, 1), 2, 0)),
        ([0.9, 0.1, 0.7], {"min_score": 0.5}, Choice((0, 2), 3, 0)),
        ([0.1, 0.2, 0.3, 0.6, 0.4, 0.5], {"min_score": 0.5}, Choice((3, 5), 6, 0)),
        # One that is better, made ahead of its turn or not, does not push out what was accepted before it.
        ([0.9, 0.1, 0.6, 0.99, 0.99], {"min_score": 0.5}, Choice((0, 2), 3, 0)),
        # When all are made the best of the rejected make up what lacks: here 0.4 before 0.3 and 0.2.
        ([0.1, 0.9, 0.2, 0.4, 0.3], {"min_score": 0.5, "max_candidates": 5}, Choice((1, 3), 5, 1)),
        ([0.1, 0.2, 0.4, 0.3], {"min_score": 0.5, "max_candidates": 4}, Choice((2, 3), 4, 2)),
        # Of equal scores the lower number is the better.
        ([0.2, 0.2, 0.2, 0.2], {"min_score": 0.5, "max_candidates": 4}, Choice((0, 1), 4, 2)),
        # By a quantile: the best of those made at first, and no more are made.
        ([0.1, 0.7, 0.3, 0.5], {"num_candidates": 4}, Choice((1, 3), 4, 0)),
        ([-0.5, -0.9, -0.7], {"num_candidates": 3}, Choice((0, 2), 3, 0)),
        # By both: the best of those accepted, of as many as must be made for m of them.
        ([0.6, 0.7, 0.9, 0.1], {"num_candidates": 4, "min_score": 0.5}, Choice((1, 2), 4, 0)),
        ([0.1, 0.7, 0.2, 0.1, 0.8], {"num_candidates": 4, "min_score": 0.5}, Choice((1, 4), 5, 0)),
        # The score of the threshold itself is accepted.
        ([0.5, 0.5], {"min_score": 0.5}, Choice((0, 1), 2, 0)),
    ],
)
def test_the_images_are_those_that_a_hand_calculation_chooses(
    scores: Sequence[float], recipe: dict[str, Any], expected: Choice
) -> None:
    assert elect([*scores, *[0.0] * 8], **recipe) == expected


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=40, max_size=40), st.data())
def test_the_choice_is_that_of_taking_one_candidate_after_the_other(scores: list[float], data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 5))
    first = data.draw(st.integers(m, 12))
    most = data.draw(st.integers(first, 30))
    batch_images = data.draw(st.integers(1, 16))
    recipe = {"num_images": m, "num_candidates": first, "max_candidates": most, "min_score": 0.5}
    made = first
    while made < most and sum(score >= 0.5 for score in scores[:made]) < m:
        made += 1
    best = sorted(range(made), key=lambda number: (-scores[number], number))[:m]
    engine = FilteringEngine(SeedEngine(), TableScorer({3: scores}), batch_images)
    [group] = engine.generate([a_ticket(3, **recipe)])()
    rejected = sum(scores[number] < 0.5 for number in best)
    assert chosen(group) == Choice(tuple(sorted(best)), made, rejected)


def test_the_images_are_drawn_from_the_seeds_of_their_candidates_in_the_order_of_their_numbers() -> None:
    engine = FilteringEngine(SeedEngine(), TableScorer({3: [0.6, 0.1, 0.2, 0.9, 0.9]}), 4)
    [made] = engine.generate([a_ticket(3, min_score=0.5)])()
    assert isinstance(made, Chosen)
    assert made.images.shape == (2, 1, 3, 3)
    assert [bytes(image.reshape(-1)[:8].tolist()) for image in made.images] == [
        image_seed(3, candidate).to_bytes(8) for candidate in (0, 3)
    ]


def test_a_candidate_has_the_guidance_of_the_image_whose_place_it_takes() -> None:
    engine = FilteringEngine(SeedEngine(), TableScorer({3: [0.1, 0.1, 0.1, 0.9, 0.9]}), 4)
    [made] = engine.generate([a_ticket(3, min_score=0.5, guidance_scales=(2.0, 7.5))])()
    assert isinstance(made, Chosen)
    assert made.choice.candidates == (3, 4)
    assert [int(image.reshape(-1)[8]) for image in made.images] == [75, 20]  # candidates 3 and 4 of m = 2


def test_a_recipe_of_what_was_chosen_makes_the_same_images_without_a_filter() -> None:
    inner = SeedEngine()
    engine = FilteringEngine(inner, TableScorer({3: [0.1, 0.6, 0.2, 0.9, 0.9]}), 4)
    ticket = a_ticket(3, min_score=0.5, guidance_scales=(2.0, 7.5))
    [made] = engine.generate([ticket])()
    assert isinstance(made, Chosen)
    again = replace(ticket, recipe=ticket.recipe.choose(made.choice.candidates))
    assert not again.recipe.is_filtered
    [remade] = inner.generate([again])()
    np.testing.assert_array_equal(remade, made.images)


@given(st.integers(1, 12), st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True))
def test_company_and_the_size_of_a_batch_change_no_choice(batch_images: int, company: list[int]) -> None:
    words = np.random.Generator(np.random.PCG64(1)).random((10, 8)).tolist()
    table = dict(enumerate(words))
    tickets = [a_ticket(index, min_score=0.6, prompt=f"prompt {index}") for index in company]
    together = FilteringEngine(SeedEngine(), TableScorer(table), batch_images).generate(tickets)()
    for ticket, made in zip(tickets, together, strict=True):
        [alone] = FilteringEngine(SeedEngine(), TableScorer(table), 4).generate([ticket])()
        assert isinstance(made, Chosen)
        assert isinstance(alone, Chosen)
        assert made.choice == alone.choice
        np.testing.assert_array_equal(made.images, alone.images)


def test_what_lacks_in_several_groups_is_made_together_with_as_much_ahead_as_the_call_has_room_for() -> None:
    inner = SeedEngine()
    scorer = TableScorer({1: [0.9, 0.1, 0.1, 0.9], 2: [0.1, 0.9, 0.9, 0.9], 3: [0.9] * 4})
    engine = FilteringEngine(inner, scorer, 4)
    made = engine.generate([a_ticket(index, min_score=0.5) for index in (1, 2, 3)])()
    # Groups 1 and 2 lack one each and get one more ahead; group 1 needs it. Group 3 has all.
    assert inner.batches == [[2, 2, 2], [2, 2]]
    assert scorer.num_scored == [6, 4]
    assert [chosen(group) for group in made] == [Choice((0, 3), 4, 0), Choice((1, 2), 3, 0), Choice((0, 1), 2, 0)]
    assert (engine.work.scored, engine.work.rejected) == (9, 3)


@pytest.mark.parametrize(("first", "rounds"), [(1024, [1024]), (1500, [1024, 476])])
def test_more_candidates_than_a_recipe_may_ask_for_take_several_rounds(first: int, rounds: list[int]) -> None:
    inner = SeedEngine()
    scores = np.random.default_rng(2).permutation(first).tolist()
    recipe = {"num_candidates": first, "max_candidates": first, "min_score": -1.0}
    [made] = FilteringEngine(inner, TableScorer({3: scores}), 64).generate([a_ticket(3, **recipe)])()
    assert chosen(made).candidates == tuple(sorted(np.argsort(scores)[-2:].tolist()))
    assert chosen(made).num_made == first
    assert inner.batches == [[num] for num in rounds]


def test_what_is_made_ahead_keeps_to_what_a_recipe_may_ask_for() -> None:
    inner = SeedEngine()
    recipe = {"num_images": 1024, "num_candidates": 1024, "max_candidates": 4096, "min_score": 0.5}
    scores = [1.0] * 14 + [0.0] * 1010 + [1.0] * 3072
    [made] = FilteringEngine(inner, TableScorer({3: scores}), 100).generate([a_ticket(3, **recipe)])()
    assert chosen(made).num_made == 1024 + 1010
    assert inner.batches == [[1024], [1024]], "1010 that lack, and 14 of the 90 that the call has room for"


def test_large_images_are_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "_ROUND_BYTES", 3 * 9)
    inner = SeedEngine()
    [made] = FilteringEngine(inner, TableScorer({3: list(range(8))}), 4).generate([a_ticket(3, num_candidates=8)])()
    assert chosen(made) == Choice((6, 7), 8, 0)
    assert inner.batches == [[3], [3], [2]]


def test_tickets_without_a_filter_are_made_as_ever() -> None:
    inner = SeedEngine()
    engine = FilteringEngine(inner, TableScorer({}), 4)
    plain = Ticket(index=5, rank=0, recipe=replace(RECIPE, seed=5))
    [made] = engine.generate([plain])()
    [expected] = SeedEngine().generate([plain])()
    np.testing.assert_array_equal(made, expected)
    assert engine.company(plain) != engine.company(a_ticket(6))


def test_a_group_that_cannot_be_made_or_scored_costs_its_company_nothing() -> None:
    table = {1: [0.9, 0.9], 2: [0.9, 0.9], 3: [0.9, float("nan")]}
    engine = FilteringEngine(SeedEngine(broken=[2]), TableScorer(table), 8)
    good, broken, unscored = engine.generate([a_ticket(index, min_score=0.5) for index in (1, 2, 3)])()
    assert chosen(good) == Choice((0, 1), 2, 0)
    assert str(broken) == "it cannot be made"
    assert str(unscored) == "the scorer gave what is no finite number; try --dtype float32"


def test_a_ticket_for_another_scorer_is_refused() -> None:
    engine = FilteringEngine(SeedEngine(), TableScorer({}), 8)
    [made] = engine.generate([a_ticket(1, scorer_digest="ab")])()
    assert str(made) == "the ticket wants the scorer ab, this is 5c"


def test_the_manifest_names_the_scorer_so_that_others_are_not_interchangeable() -> None:
    manifest = FilteringEngine(SeedEngine(), TableScorer({}), 8).manifest
    assert manifest.scorer == SCORER
    assert manifest.digest != MANIFEST.digest
    assert replace(manifest, scorer="") == MANIFEST
