"""The toy world's prompts."""

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.opening import open_source
from penstock.consumer.prompts.source import num_captions


def test_toyworld_is_a_source_of_its_own() -> None:
    source = open_source(PromptsConfig(source="toyworld"), 3)
    assert source.prompt(7) == open_source(PromptsConfig(), 3).prompt(7)
    assert all("handwritten" in source.prompt(index).text for index in range(20))
    assert num_captions(source) == 0


def test_toyworld_s_concepts_are_its_ten_digits() -> None:
    source = open_source(PromptsConfig(), 3)
    assert source.concepts == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for index in range(200):
        prompt = source.prompt(index)
        assert source.concepts[prompt.concept] in prompt.text.split()
    assert len({source.prompt(index).concept for index in range(200)}) == 10
