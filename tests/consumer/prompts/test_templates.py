"""Concepts times templates: even, endless, a pure function of seed and index, and strict about its files."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts import template_words
from penstock.consumer.prompts.asking.english import indefinite, is_plural, singular
from penstock.consumer.prompts.opening import open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.templates import OTHER, parse_template
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES

ANIMALS = "cat | tabby\nowl\nfox\nelephant\n"


def _open(tmp_path: Path, concepts: str = ANIMALS, templates: str | None = None, seed: int = 3) -> PromptSource:
    (tmp_path / "concepts.txt").write_text(concepts)
    config = {"source": "concepts", "concepts": str(tmp_path / "concepts.txt")}
    if templates is not None:
        (tmp_path / "templates.yaml").write_text(templates)
        config["templates"] = str(tmp_path / "templates.yaml")
    return open_source(PromptsConfig(**config), seed)


def _refusal(tmp_path: Path, templates: str, concepts: str = ANIMALS) -> str:
    with pytest.raises(ConfigError) as caught:
        _open(tmp_path, concepts, templates)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in message
    return message


def test_each_concept_comes_once_a_round_in_an_order_of_the_rounds_own(tmp_path: Path) -> None:
    source = _open(tmp_path)
    assert source.concepts == ("cat", "owl", "fox", "elephant")
    rounds = [tuple(source.prompt(4 * k + i).concept for i in range(4)) for k in range(40)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    assert len(set(rounds)) > 10


def test_a_prompt_shows_its_concept_in_one_of_its_spellings(tmp_path: Path) -> None:
    source = _open(tmp_path, templates="templates: ['{concept}']")
    texts = Counter((source.concepts[prompt.concept], prompt.text) for prompt in map(source.prompt, range(400)))
    assert {pair for pair in texts if pair[0] != "cat"} == {("owl", "owl"), ("fox", "fox"), ("elephant", "elephant")}
    # 100 draws of two spellings: six standard deviations of a fair coin are 30.
    assert abs(texts["cat", "cat"] - 50) < 30
    assert texts["cat", "cat"] + texts["cat", "tabby"] == 100


def test_seed_and_index_alone_decide_in_any_process_and_order(tmp_path: Path) -> None:
    source = _open(tmp_path)
    program = (
        "import sys; from penstock.consumer.making_config import PromptsConfig\n"
        "from penstock.consumer.prompts.opening import open_source\n"
        "s = open_source(PromptsConfig(source='concepts', concepts=sys.argv[1]), 3)\n"
        "print([s.prompt(i).text for i in (10**15, 7, 0)]); print(s.digest)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "concepts.txt")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert output == [str([source.prompt(index).text for index in (10**15, 7, 0)]), source.digest]
    other = _open(tmp_path, seed=4)
    assert [other.prompt(index) for index in range(20)] != [source.prompt(index) for index in range(20)]


def test_draws_are_those_of_blake2b(tmp_path: Path) -> None:
    """Pinned, so that a version that would change running runs' prompts fails here."""
    source = _open(tmp_path, templates="templates: ['{concept} {n}']\nn: ['0', '1', '2', '3', '4', '5', '6', '7']")
    import hashlib

    for index in range(20):
        word = int.from_bytes(hashlib.blake2b(f"3 {index} n".encode(), digest_size=8).digest(), "big")
        assert source.prompt(index).text.endswith(f" {word % 8}")


def test_the_digest_says_all_that_decides(tmp_path: Path) -> None:
    digests = {
        _open(tmp_path).digest,
        _open(tmp_path, seed=4).digest,
        _open(tmp_path, concepts="owl\ncat | tabby\nfox\nelephant\n").digest,
        _open(tmp_path, templates="templates: ['a {concept}']").digest,
        _open(tmp_path, templates="templates: ['a {concept} {x}']\nx: [y]").digest,
        _open(tmp_path, templates="templates: ['a {concept} {x}']\nx: [z]").digest,
    }
    assert len(digests) == 6
    assert _open(tmp_path).digest in digests


def test_templates_are_filled_from_the_files_lists_and_the_built_in_ones(tmp_path: Path) -> None:
    text = "templates:\n  - an {concept} {relation} a {other} {place}, {time}\nplace: [at sea]\ntime: [at noon]\n"
    source = _open(tmp_path, templates=text)
    relations = "|".join(template_words.LISTS["relation"])
    for index in range(50):
        prompt = source.prompt(index)
        assert prompt.text.endswith(" at sea, at noon")
        head = prompt.text.removesuffix(" at sea, at noon")
        relation = next(r for r in sorted(relations.split("|"), key=len, reverse=True) if f" {r} " in head)
        first, other = head.split(f" {relation} ")
        assert first in ("a cat", "a tabby", "an owl", "a fox", "an elephant")
        assert other in ("a cat", "an owl", "a fox", "an elephant")
        assert other.split()[-1] != source.concepts[prompt.concept]


def test_built_in_templates_show_synclrs_three_ways_equally_and_are_many(tmp_path: Path) -> None:
    ways = (template_words.ALONE, template_words.WITH_BACKGROUND, template_words.WITH_RELATION)
    assert len({len(way) for way in ways}) == 1
    assert all("{background}" in text for text in template_words.WITH_BACKGROUND)
    assert all("{relation} a {other}" in text for text in template_words.WITH_RELATION)
    assert all(len(set(words)) == len(words) >= 20 for words in template_words.LISTS.values())
    source = _open(tmp_path)
    assert len({source.prompt(index).text for index in range(1000)}) > 800


def test_a_single_concept_has_no_relations(tmp_path: Path) -> None:
    source = _open(tmp_path, concepts="owl\n")
    assert all("owl" in source.prompt(index).text for index in range(100))
    assert all(OTHER not in template.fields for template in map(parse_template, template_words.ALONE))
    assert "templates.yaml:1: 'a {concept} and {other}': {other} needs a second concept" in _refusal(
        tmp_path, "templates: ['a {concept} and {other}']", concepts="owl\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "templates.yaml has no templates; write templates:"),
        ("templates: []", "has no templates"),
        ("templates: a {concept}", ":1: templates: expected a list, each text, got text"),
        ("templates:\n- a photo", ":2: 'a photo': a template must hold {concept}"),
        ("templates:\n- ok {concept}\n- a {concept} {bakground}", ":3: 'a {concept} {bakground}': no list is called "
         "bakground; did you mean 'background'?"),
        ("templates:\n- 'a {concept'", ":2: 'a {concept': a brace is left open"),
        ("templates:\n- 'a {concept!r}'", "{concept} is no field"),
        ("templates:\n- 'a {concept} {0}'", "{0} is no field"),
        ("templates: ['a {concept}']\ntime: [at noon]", ":2: no template has {time}; use the list or drop it"),
        ("templates: ['a {concept} {x}']\nx: []", "x: the list is empty"),
        ("templates: ['a {concept} {x}']\nx: [a, 3]", ":2: x[1]: expected text, got int '3'"),
        ("templates: ['a {concept}']\nother: [a]", "'other' cannot be a list's name"),
        ("templates: ['a {concept}']\ntemplates: ['{concept}']", ":2: templates: given twice"),
        ("- a {concept}", ":1: expected named lists of texts, got a list"),
        ("templates: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_broken_file_of_templates_is_named_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in _refusal(tmp_path, text)


def test_a_caption_that_could_be_too_long_is_refused_before_the_run(tmp_path: Path) -> None:
    long = "x" * (MAX_PROMPT_BYTES - 20)
    assert "a caption has at most 8192" in _refusal(
        tmp_path, f"templates: ['a {{concept}} {{x}} and more']\nx: [{long}]"
    )


def test_source_concepts_needs_a_list() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.concepts must name a list for prompts\.source concepts"):
        PromptsConfig(source="concepts")


def test_braces_and_articles_of_a_template() -> None:
    template = parse_template("A {concept} in {{braces}}, an {x}, Java {concept}")
    assert template.fill({"concept": "owl", "x": "trousers"}) == "An owl in {braces}, trousers, Java owl"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("one-eyed cat", "a one-eyed cat"),
        ("European robin", "a European robin"),
        ("uninhabited island", "an uninhabited island"),
        ("scissors", "scissors"),
        ("penguins", "penguins"),
        ("bus", "a bus"),
        ("pair of glasses", "a pair of glasses"),
        ("octopus", "an octopus"),
        ("glass", "a glass"),
        ("the Eiffel Tower", "the Eiffel Tower"),
        ("two cats", "two cats"),
    ],
)
def test_articles_follow_the_sound(noun: str, expected: str) -> None:
    assert indefinite(noun) == expected


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("birds", "bird"), ("cups of tea", "cup of tea"),
        ("block of flats", "block of flats"),
        ("cherries", "cherry"), ("boxes", "box"), ("churches", "church"), ("buses", "bus"),
        ("wolves", "wolf"), ("bookshelves", "bookshelf"), ("women", "woman"), ("horses", "horse"), ("mice", "mouse"),
        ("red bicycles", "red bicycle"), ("houses", "house"), ("potatoes", "potato"),
        ("magpies", "magpie"), ("scissors", "scissors"), ("grass", "grass"), ("fish", "fish"), ("cactus", "cactus"),
    ],
)  # fmt: skip
def test_plurals_become_singular(many: str, one: str) -> None:
    assert singular(many) == one
    assert not is_plural(one) or one == "scissors"
