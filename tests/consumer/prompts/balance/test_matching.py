"""Concepts found in captions: whole words, the longest, all of them."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.prompts.balance.matching import ConceptMatcher, match
from penstock.consumer.prompts.captions import ListedCaptions
from penstock.consumer.prompts.concept_list import Concept
from penstock.protocol.errors import ConfigError


def _concepts(*lines: str) -> list[Concept]:
    return [Concept(line.split("|")[0], tuple(line.split("|"))) for line in lines]


ANIMALS = _concepts("dog|dogs|perro", "cat|cats", "hot dog", "dog house", "café", "c++", "新しい")


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a dog", ["dog"]),
        ("A  DOG, sleeping.", ["dog"]),
        ("(dogs)", ["dog"]),
        ("a catalogue of bobcats", []),
        ("dog_1 and cat2", []),
        ("the cat and the dog and the cat", ["cat", "dog"]),
        ("a hot dog", ["hot dog"]),
        ("a hot dog and a dog", ["hot dog", "dog"]),
        ("a hot dog house", ["hot dog"]),
        ("hot dogs", ["dog"]),
        ("hot\tdog", ["hot dog"]),
        ("cat-like", ["cat"]),
        ("a cafe\u0301 by night", ["café"]),
        ("cat\u0323s", []),
        ("written in C++.", ["c++"]),
        ("\uff44\uff4f\uff47", ["dog"]),
        ("新しい 家", ["新しい"]),
        ("", []),
        ("perro", ["dog"]),
    ],
)
def test_whole_words_are_found_and_the_longest_of_them(caption: str, found: list[str]) -> None:
    assert [ANIMALS[place].name for place in ConceptMatcher(ANIMALS).find(caption)] == found


WORDS = ["a", "ab", "ab a", "b a b", "ba", "abba"]


@given(st.text(alphabet="ab .", max_size=30))
def test_regular_expressions_find_the_same(caption: str) -> None:
    """Leftmost, then longest, whole words: what an alternation of the longest first finds."""
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in sorted(WORDS, key=len, reverse=True))
    text = " ".join(caption.split())
    expected = list(dict.fromkeys(re.findall(pattern, text)))
    found = [WORDS[place] for place in ConceptMatcher(_concepts(*WORDS)).find(caption)]
    assert found == expected


def test_the_first_is_what_a_caption_is_of_and_all_are_counted() -> None:
    texts = ["a cat and a dog", "nothing", "a dog", "dogs, a cat, a hot dog"]
    tags = match(ListedCaptions(texts, "digest"), ANIMALS)
    assert tags.names == tuple(concept.name for concept in ANIMALS)
    assert tags.codes.tolist() == [1, -1, 0, 0]
    assert tags.starts is not None
    assert tags.all_codes is not None
    assert tags.starts.tolist() == [0, 2, 2, 3, 6]
    assert tags.all_codes.tolist() == [1, 0, 0, 0, 1, 2]
    assert tags.counts().tolist()[:3] == [2, 1, 0]
    assert tags.counts_of_all().tolist()[:3] == [3, 2, 1]
    assert tags.num_without == 1


def test_where_no_caption_names_several_nothing_else_is_kept() -> None:
    tags = match(ListedCaptions(["a cat", "nothing"], "digest"), ANIMALS)
    assert (tags.codes.tolist(), tags.starts, tags.all_codes) == ([1, -1], None, None)


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ahocorasick", None)
    with pytest.raises(ConfigError, match=r"^prompts\.concepts needs pyahocorasick .*pip install -e '\.\[data\]'$"):
        ConceptMatcher(ANIMALS)


def test_two_concepts_of_the_same_words_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'C \+\+' of 'C \+\+' is the same words as a spelling of 'C\+\+'; leave one out"
    ):
        ConceptMatcher(_concepts("C++|cpp", "C ++"))
    assert ConceptMatcher(_concepts("C++|C ++", "cat")).find("a cat reads of c ++") == [1, 0]
