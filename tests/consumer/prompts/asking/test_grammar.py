"""The built-in grammar: commands in natural language become good English prompts, the same every time."""

import re
from collections import Counter
from math import prod

import pytest

from penstock.consumer.prompts.asking.axes import AXES, AXIS_WORDS
from penstock.consumer.prompts.asking.command import read_command
from penstock.consumer.prompts.asking.english import is_plural, singular
from penstock.consumer.prompts.asking.grammar import expand
from penstock.consumer.prompts.asking.habitats import PLACED, PLACES
from penstock.consumer.prompts.asking.kinds import KINDS, OTHER_WORDS
from penstock.consumer.prompts.asking.scenes import SCENES
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_NAME_LENGTH, MAX_PROMPT_BYTES
from penstock.protocol.tickets import prompt_id
from penstock.toyworld.captions import VOCABULARY, digit_of

COMMANDS = (
    "birds of the alps, in every season",
    "dogs and cats",
    "handwritten digits",
    "a red bicycle",
    "the sound of silence",
    "cars and bicycles in every colour, from every angle",
    "show me photos of old doors in paris, please",
    "people at work",
    "furniture in all materials and sizes",
)


def test_the_issues_example_shows_alpine_birds_evenly_in_four_seasons() -> None:
    prompts = expand("birds of the alps, in every season", 1000)
    assert len({prompt_id(prompt.text) for prompt in prompts}) == 1000
    birds = Counter(prompt.concept for prompt in prompts)
    assert set(birds) == set(PLACED["bird", "alps"])
    seasons = Counter(season for p in prompts for season in re.findall(r"in (spring|summer|autumn|winter)\b", p.text))
    assert set(seasons) == {"spring", "summer", "autumn", "winter"}
    assert sum(seasons.values()) == 1000
    # Repetitions that were left out make it a little uneven.
    assert max(birds.values()) - min(birds.values()) <= 10
    assert max(seasons.values()) - min(seasons.values()) <= 40
    pairs = Counter((p.concept, season) for p in prompts for season in seasons if f"in {season}" in p.text)
    assert len(pairs) == 20 * 4
    assert all("in the Alps" in prompt.text and prompt.concept in prompt.text for prompt in prompts)


@pytest.mark.parametrize("command", COMMANDS)
def test_prompts_are_plain_sentences_and_differ(command: str) -> None:
    prompts = expand(command, 300)
    assert prompts == expand(command, 300)
    assert prompts[:50] == expand(command, 50), "more prompts only add to fewer"
    assert len({prompt_id(prompt.text) for prompt in prompts}) == len(prompts) > 200
    for prompt in prompts:
        words = prompt.text.split()
        assert " ".join(words) == prompt.text
        assert prompt.text.isprintable()
        assert len(prompt.text.encode()) < MAX_PROMPT_BYTES
        assert prompt.concept
        assert not re.search(r"\b(\w+) \1\b|\ba [aeio]\w|\ban [^aeiouAEIOUhMS]|\b(a|an|the) (a|an|the)\b", prompt.text)
        assert not re.search(r",,| ,|\bof (in|at|on)\b", prompt.text)


def test_of_several_subjects_each_is_a_concept_and_none_comes_more_often() -> None:
    prompts = expand("cats, dogs and horses in the snow", 300)
    assert Counter(prompt.concept for prompt in prompts) == {"cat": 100, "dog": 100, "horse": 100}
    assert all(" in the snow" in prompt.text for prompt in prompts)
    assert len({word for prompt in prompts for word in prompt.text.split()} & {"beagle", "dalmatian", "Siamese"}) == 3


def test_handwritten_digits_are_captions_that_the_tiny_model_knows() -> None:
    prompts = expand("handwritten digits", 1000)
    assert len(prompts) == 10 * 7 * 7, "a digit, one of six inks or none, one of six papers or none"
    for prompt in prompts:
        assert set(prompt.text.split()) <= set(VOCABULARY)
        assert (
            prompt.concept
            == (["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])[digit_of(prompt.text)]
        )


@pytest.mark.parametrize(
    ("command", "concepts", "axes"),
    [
        ("birds of the alps, in every season", ["bird"], ["season"]),
        ("dogs and cats", ["dog", "cat"], []),
        ("a red bicycle", ["red bicycle"], []),
        ("red and green apples", ["red apple", "green apple"], []),
        ("black and white cats", ["black-and-white cat"], []),
        ("two cats playing chess", ["cat"], []),
        ("golden retrievers and huskies", ["golden retriever", "husky"], []),
        ("all breeds of dogs", ["dog"], []),
        ("birds of prey", ["bird of prey"], []),
        ("cups of tea", ["cup of tea"], []),
        ("the sound of silence", ["sound of silence"], []),
        ("the Eiffel Tower at night", ["Eiffel Tower"], []),
        ("show me photos of old doors in paris, please", ["old door"], []),
        ("trees in spring, summer, autumn and winter", ["tree"], ["season"]),
        ("horses by day and by night", ["horse"], ["time"]),
        ("fruit in every colour and at every time of day", ["fruit"], ["colour", "time"]),
        ("vehicles in all weathers and seasons", ["vehicle"], ["weather", "season"]),
        ("different styles of paintings of churches", ["church"], ["style"]),
        ("Vögel der Alpen", ["Vögel der Alpen"], []),
        ("wildlife in africa", ["wild animal"], []),
        ("my dog Rex", ["dog Rex"], []),
        ("10,000 images of cats", ["cat"], []),
        ("something beautiful", ["something beautiful"], []),
        ("birds of prey of the alps", ["bird of prey"], []),
        ("cats; dogs / horses & owls", ["cat", "dog", "horse", "owl"], []),
        ("dogs, dogs, a dog and the dogs", ["dog"], []),
    ],
)
def test_a_command_is_read_as_a_person_would(command: str, concepts: list[str], axes: list[str]) -> None:
    found = read_command(command)
    assert [subject.concept for subject in found.subjects] == concepts
    assert list(found.axes) == axes


def test_listed_values_are_gone_through_alone() -> None:
    texts = [prompt.text for prompt in expand("oaks in spring and in autumn", 100)]
    assert all(("in spring" in text) != ("in autumn" in text) for text in texts)


def test_all_combinations_of_axes_come_before_any_comes_twice() -> None:
    command = "chess pieces in every material and every size at every time of day"
    sizes = [len(AXES[axis].values) for axis in ("material", "size", "time")]
    count = prod(sizes)
    found = set()
    for prompt in expand(command, count):
        adjectives = re.search(r"(\S+) (\S+) chess piece", prompt.text)
        assert adjectives
        found.add((*adjectives.groups(), next(time for time in AXES["time"].values if time in prompt.text)))
    assert len(found) >= 0.98 * count, "all but those whose sentence had been said"


def test_more_combinations_than_fit_into_memory_are_no_trouble() -> None:
    command = f"cats in every {', every '.join(dict.fromkeys(AXIS_WORDS))}"
    assert set(read_command(command).axes) == set(AXES)
    assert len(expand(command, 200)) == 200
    assert " tiny young red wooden tabby cat " in expand(command, 1)[0].text, "adjectives in their usual order"


@pytest.mark.parametrize("command", ["!!!", "in every season", "😀", " , and ", "of of of"])
def test_a_command_that_names_nothing_is_one_line(command: str) -> None:
    with pytest.raises(ConfigError, match=r"--ask must name what to show, such as 'birds of the alps"):
        expand(command, 10)


@pytest.mark.parametrize(
    "command",
    ["a " * 400, "and " * 200 + "cat", "(" * 500 + "cat", "x" * 1000, "in in in, every", "every day"],
)
def test_an_odd_command_is_shown_as_it_is(command: str) -> None:
    prompts = expand(command, 5)
    assert len(prompts) == 5
    assert all(0 < len(prompt.concept) <= MAX_NAME_LENGTH for prompt in prompts)
    assert all(len(prompt.text.encode()) <= MAX_PROMPT_BYTES for prompt in prompts)


def test_the_lexicon_holds_together() -> None:
    assert {kind.scene for kind in KINDS.values()} <= set(SCENES)
    assert set(OTHER_WORDS.values()) | {kind for kind, _ in PLACED} <= set(KINDS)
    assert {place for _, place in PLACED} == set(PLACES.values())
    assert set(AXIS_WORDS.values()) == set(AXES)
    for name, kind in [*KINDS.items(), *((str(key), KINDS["bird"]) for key in PLACED)]:
        assert len(set(kind.members)) == len(kind.members) >= 6, name
    for members in [*(kind.members for kind in KINDS.values()), *PLACED.values()]:
        for member in members:
            assert member == singular(member) or not is_plural(member) or member == "rolling hills", member
