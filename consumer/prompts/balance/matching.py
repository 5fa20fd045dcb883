"""Finds the concepts that captions name, all in one pass over each (Aho and Corasick 1975).

Captions and spellings are compared as prompts are: NFKC, case folded, white space collapsed. Only whole words count:
"cat" is not in "catalogue", nor in "cats", so that a plural is a spelling of its own (`cat|cats`). Where matches
overlap the leftmost counts, and of those that begin together the longest: "a hot dog" is a hot dog and no dog. What
remains are all concepts of the caption, each once; the first is what the caption is of. Languages that are written
without spaces between words have no whole words in this sense: tag such captions yourself.
"""

import logging
import re
import sys
import unicodedata
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.consumer.prompts.balance.tags import Tags
from penstock.consumer.prompts.captions import Captions
from penstock.consumer.prompts.concept_list import Concept
from penstock.protocol.errors import ConfigError
from penstock.protocol.tickets import normalise_prompt

_log = logging.getLogger(__name__)

_ASCII_PARTS = re.compile(r"\w+|\S", re.ASCII)
_REPORT_EVERY = 1_000_000
"""Captions between two lines in the log."""


class ConceptMatcher:
    """Knows the spellings of all concepts.

    Args:
        concepts: spellings are theirs alone.

    Raises:
        ConfigError: the library is not installed, or two concepts share a spelling.
    """

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self._automaton = _new_automaton()
        for place, concept in enumerate(concepts):
            for spelling in concept.spellings:
                words = _words(spelling)
                # "C++" and "C ++" are two lines of a list, and the same words.
                first, _ = self._automaton.get(words, (place, 0))
                if first != place:
                    raise ConfigError(
                        f"prompts.concepts: {spelling[:40]!r} of {concept.name[:40]!r} is the same words as a spelling "
                        f"of {concepts[first].name[:40]!r}; leave one out"
                    )
                self._automaton.add_word(words, (place, len(words)))
        self._automaton.make_automaton()

    def find(self, caption: str) -> list[int]:
        """Places of the concepts that a caption names, in the order in which it does, each once."""
        # (where it begins, -length, concept): in this order the leftmost comes first, and then the longest.
        matches = [
            (last + 1 - length, -length, place) for last, (place, length) in self._automaton.iter(_words(caption))
        ]
        if len(matches) < 2:
            return [place for _, _, place in matches]
        found: list[int] = []
        free = 0
        for start, negative_length, place in sorted(matches):
            if start >= free:
                # The space that ends a match may begin the next.
                free = start - negative_length - 1
                if place not in found:
                    found.append(place)
        return found


def _words(text: str) -> str:
    """The normalised text with a space before and after every word, so that a match is of whole words."""
    text = normalise_prompt(text)
    # Most captions are letters and spaces; looking at their characters one by one costs twenty times as much.
    if text.replace(" ", "").isalnum():
        return f" {text} "
    parts = _ASCII_PARTS if text.isascii() else _parts()
    return f" {' '.join(parts.findall(text))} "


def match(captions: Captions, concepts: Sequence[Concept]) -> Tags:
    """The concepts of every caption; a caption may have several or none. Raises ConfigError."""
    matcher = ConceptMatcher(concepts)
    num_captions = len(captions)
    firsts = np.full(num_captions, -1, dtype=np.int32)
    starts = np.zeros(num_captions + 1, dtype=np.int64)
    codes = array("i")
    for row in range(num_captions):
        if row and row % _REPORT_EVERY == 0:
            _log.info("found the concepts of %d of %d captions", row, num_captions)
        found = matcher.find(captions.caption(row).text)
        if found:
            firsts[row] = found[0]
            codes.extend(found)
        starts[row + 1] = len(codes)
    names = tuple(concept.name for concept in concepts)
    if len(codes) == np.count_nonzero(firsts >= 0):
        return Tags(names=names, codes=firsts)
    return Tags(names=names, codes=firsts, starts=starts, all_codes=np.frombuffer(codes, dtype=np.int32))


@lru_cache(maxsize=1)
def _parts() -> re.Pattern[str]:
    """A word, or a character that is of none. Marks are vowel signs and accents: they belong to the word."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"[\w{marks}]+|[^\s]")


def _new_automaton() -> Any:
    try:
        import ahocorasick
    except ImportError as error:
        raise ConfigError("prompts.concepts needs pyahocorasick to find them; pip install -e '.[data]'") from error
    return ahocorasick.Automaton()
