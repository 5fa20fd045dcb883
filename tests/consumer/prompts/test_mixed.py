"""Prompts of generated and real groups in turn."""

import pytest

from penstock.consumer.prompts.captions import ListedCaptions, ShuffledCaptions
from penstock.consumer.prompts.mixed import MixedPrompts
from penstock.consumer.prompts.source import num_captions
from penstock.consumer.prompts.toyworld import ToyWorldPrompts

GENERATED = ShuffledCaptions(ListedCaptions(["a fox", "a dog"], "g", ["fox", "dog"]), 0)
REAL = ShuffledCaptions(ListedCaptions(["photo of a dog", "photo of a cat", "photo"], "r", ["dog", "cat", "cat"]), 0)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_share_of_the_groups_is_real_and_has_real_captions(fraction: float) -> None:
    mixed = MixedPrompts(GENERATED, REAL, fraction, 3)
    real = [mixed.is_real(index) for index in range(400)]
    assert sum(real) == pytest.approx(400 * fraction, abs=1)
    for index, is_real in enumerate(real):
        assert mixed.prompt(index).text.startswith("photo") is is_real
        assert mixed.is_real(index + 2**40) is is_real, "a stand-in is of its group's kind"
    assert (mixed.digest, mixed.real_digest) == ("g", "r")


def test_each_kind_s_captions_come_in_its_own_order() -> None:
    mixed = MixedPrompts(GENERATED, REAL, 0.5, 3)
    for source, is_real in ((GENERATED, False), (REAL, True)):
        found = [mixed.prompt(index).text for index in range(60) if mixed.is_real(index) is is_real]
        assert found == [source.prompt(ordinal).text for ordinal in range(len(found))]


def test_equal_names_are_one_concept() -> None:
    mixed = MixedPrompts(GENERATED, REAL, 0.5, 3)
    assert mixed.concepts == ("cat", "dog", "fox")
    for index in range(60):
        prompt = mixed.prompt(index)
        words = {"photo": "cat"}.get(prompt.text, prompt.text)
        assert mixed.concepts[prompt.concept] in words


def test_without_concepts_on_either_side_there_are_none() -> None:
    bare = ShuffledCaptions(ListedCaptions(["photo"], "r"), 0)
    mixed = MixedPrompts(GENERATED, bare, 0.5, 3)
    assert mixed.concepts == ()
    assert {mixed.prompt(index).concept for index in range(20)} == {-1}
    assert MixedPrompts(GENERATED, REAL, 1.0, 3).concepts == ("cat", "dog")


def test_the_captions_that_count_are_those_that_are_generated_from() -> None:
    assert num_captions(MixedPrompts(GENERATED, REAL, 0.5, 3)) == 2
    assert num_captions(MixedPrompts(ToyWorldPrompts(0), REAL, 0.5, 3)) == 0
