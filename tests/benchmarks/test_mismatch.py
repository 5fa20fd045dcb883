"""The parts of the mismatch benchmark: which images are mislabelled, and what its figures say."""

import importlib
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.producer.engine import Made, Pending, make
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Ticket
from penstock.toyworld.captions import caption, digit_of
from tests.protocol import samples

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RECIPE = replace(samples.RECIPE, prompt=caption(3, "black", "pink"), num_images=6, height=2, width=2)


@pytest.fixture
def mislabelling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("baselines.mislabelling")


@pytest.fixture
def mismatch(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("mismatch")


class PaintingEngine:
    """Paints each image with the digit of its prompt, the last digits of its seed, and its guidance scale."""

    def __init__(self) -> None:
        self.work = Work()
        self.cannot = ""

    @property
    def manifest(self) -> Manifest:
        return samples.MANIFEST

    def load(self) -> None:
        pass

    def company(self, ticket: Ticket) -> Hashable:
        return ticket.recipe.height

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        return lambda: [self._paint(ticket) for ticket in tickets]

    def _paint(self, ticket: Ticket) -> Made:
        recipe = ticket.recipe
        if recipe.prompt == self.cannot:
            return ModelError("it cannot")
        images = np.zeros(recipe.shape, np.uint8)
        for image, seed, scale in zip(images, recipe.image_seeds, recipe.image_scales, strict=True):
            image[:] = [digit_of(recipe.prompt), seed % 251, round(10 * scale)]
        return images


def _tickets(num: int, **changes: Any) -> list[Ticket]:
    recipes = [replace(RECIPE, seed=1000 + number, **changes) for number in range(num)]
    return [Ticket(index=number, rank=0, recipe=recipe) for number, recipe in enumerate(recipes)]


def test_as_many_prompts_are_swapped_as_asked_for_each_for_any_other_digit(mislabelling: Any) -> None:
    prompt = caption(3, "black", "pink")
    shown = [mislabelling.shown_prompt(prompt, seed, 0.2) for seed in range(10_000)]
    wrong = [text for text in shown if text != prompt]
    assert len(wrong) / len(shown) == pytest.approx(0.2, abs=0.02)
    assert set(wrong) == {caption(digit, "black", "pink") for digit in range(10)} - {prompt}
    assert all(mislabelling.shown_prompt(prompt, seed, 0.0) == prompt for seed in range(100))


def test_every_image_is_what_the_engine_makes_of_its_seed_and_of_what_it_shows(mislabelling: Any) -> None:
    engine = mislabelling.MislabellingEngine(PaintingEngine(), 0.4)
    tickets = _tickets(5, guidance_scales=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    for ticket, group in zip(tickets, make(engine, tickets), strict=True):
        for number, image in enumerate(group):
            seed = ticket.recipe.image_seeds[number]
            digit = digit_of(mislabelling.shown_prompt(ticket.recipe.prompt, seed, 0.4))
            assert (image == [digit, seed % 251, 10 * (number + 1)]).all()


def test_another_candidate_may_be_right_where_the_first_was_wrong(mislabelling: Any) -> None:
    engine = mislabelling.MislabellingEngine(PaintingEngine(), 0.4)
    ticket = _tickets(1, num_images=30)[0]
    whole = make(engine, [ticket])[0]
    assert 3 < (whole[:, 0, 0, 0] != 3).sum() < 25
    part = make(engine, [replace(ticket, recipe=ticket.recipe.choose((4, 29, 11)))])[0]
    assert (part == whole[[4, 29, 11]]).all()


def test_a_group_whose_wrong_images_cannot_be_made_is_none(mislabelling: Any) -> None:
    painter = PaintingEngine()
    painter.cannot = RECIPE.prompt
    engine = mislabelling.MislabellingEngine(painter, 0.4)
    with pytest.raises(ModelError, match="it cannot"):
        make(engine, _tickets(1))


def test_the_manifest_says_that_it_mislabels(mislabelling: Any) -> None:
    manifest = mislabelling.MislabellingEngine(PaintingEngine(), 0.2).manifest
    assert manifest.settings["mislabelled"] == "0.2"
    assert manifest.digest != samples.MANIFEST.digest


def test_recovered_is_the_share_of_the_loss_that_came_back(mismatch: Any) -> None:
    def summary(knn: float, **rejected: int) -> dict[str, Any]:
        by_concept = {name: {"made": 10, "rejected": count} for name, count in rejected.items()}
        return {"knn": {"after": knn}, "filter": {"by_concept": by_concept}}

    summaries = {
        "clean": [summary(0.8), summary(0.7)],
        "mislabelled": [summary(0.6), summary(0.5)],
        "filtered": [summary(0.75, three=4, two=1), summary(0.65, three=2)],
    }
    result = mismatch.summarise(summaries)
    figures = {name: result[name] for name in ("knn_clean", "knn_mislabelled", "knn_filtered", "recovered")}
    expected = {"knn_clean": 0.75, "knn_mislabelled": 0.55, "knn_filtered": 0.7, "recovered": 0.75}
    assert figures == pytest.approx(expected)
    assert result["rejected_by_concept"] == {"three": {"made": 20, "rejected": 6}, "two": {"made": 10, "rejected": 1}}
    summaries["mislabelled"] = summaries["clean"]
    assert mismatch.summarise(summaries)["recovered"] is None
