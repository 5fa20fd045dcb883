import re

import pytest

from penstock.toyworld.captions import VOCABULARY, Captioner, caption
from penstock.toyworld.render import INKS, PAPERS


def test_caption_names_what_it_is_given() -> None:
    assert caption(7, "dark blue", "pink") == "a handwritten seven in dark blue ink on pink paper"
    assert caption(0) == "a handwritten zero"
    assert caption(3, paper="white") == "a handwritten three on white paper"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"digit": 10}, "digit must be in 0..9, got 10"),
        ({"digit": 1, "ink": "gold"}, "ink must be one of black, .*, got 'gold'"),
        ({"digit": 1, "paper": "black"}, "paper must be one of white, .*, got 'black'"),
    ],
)
def test_caption_refuses_the_unknown(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption(**arguments)  # type: ignore[arg-type]


def test_prompts_depend_on_seed_and_index_only() -> None:
    forwards = [Captioner(5).prompt(index) for index in range(50)]
    backwards = [Captioner(5).prompt(index) for index in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [Captioner(6).prompt(index) for index in range(50)]


def test_prompts_name_each_attribute_in_about_three_of_ten() -> None:
    captions = [Captioner(0).prompt(index) for index in range(4000)]
    for name, pattern, known in (
        ("ink", r"in ([a-z ]+) ink", INKS),
        ("paper", r"on ([a-z ]+) paper", PAPERS),
    ):
        found = [match.group(1) for item in captions if (match := re.search(pattern, item.text))]
        assert 0.27 < len(found) / len(captions) < 0.33
        assert set(found) == set(known)
        assert found == [getattr(item, name) for item in captions if getattr(item, name)]


def test_prompts_ask_for_every_digit_equally_often() -> None:
    captions = [Captioner(0).prompt(index) for index in range(4000)]
    for digit in range(10):
        assert 300 < sum(item.digit == digit for item in captions) < 500


def test_one_content_has_one_text() -> None:
    captions = [Captioner(0).prompt(index) for index in range(4000)]
    contents = {(item.digit, item.ink, item.paper) for item in captions}
    assert len({item.text for item in captions}) == len(contents)


def test_vocabulary_is_exactly_the_words_of_the_captions() -> None:
    words = {word for index in range(8000) for word in Captioner(1).prompt(index).text.split()}
    assert set(VOCABULARY) == words
    assert list(VOCABULARY) == sorted(VOCABULARY)
