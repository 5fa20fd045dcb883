"""Captions of the toy world: always the digit, the ink and the paper only sometimes.

Ink and paper are each named in about 30% of the captions. Were they always named, colour alone would tell one
caption from another and an encoder would learn nothing of handwriting; never named, prompts would repeat ten
texts. There is one phrasing only: two phrasings of one content would be negatives of each other in a
contrastive loss, though nobody could tell their images apart.
"""

from dataclasses import dataclass

import numpy as np

from penstock.toyworld.render import INKS, PAPERS

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Chance that a caption names the ink, and independently the paper.
NAMED = 0.3


@dataclass(frozen=True, slots=True)
class Caption:
    """One prompt and what it asks for; a name of None leaves that attribute free."""

    text: str
    digit: int
    ink: str | None
    paper: str | None


def caption(digit: int, ink: str | None = None, paper: str | None = None) -> str:
    """The caption's text, such as "a handwritten seven in dark blue ink on pink paper".

    Raises ValueError for a digit, ink or paper that the toy world does not know.
    """
    if not 0 <= digit < len(DIGIT_WORDS):
        raise ValueError(f"digit must be in 0..9, got {digit}")
    if ink is not None and ink not in INKS:
        raise ValueError(f"ink must be one of {', '.join(INKS)}, got {ink!r}")
    if paper is not None and paper not in PAPERS:
        raise ValueError(f"paper must be one of {', '.join(PAPERS)}, got {paper!r}")
    return (
        f"a handwritten {DIGIT_WORDS[digit]}"
        + (f" in {ink} ink" if ink else "")
        + (f" on {paper} paper" if paper else "")
    )


def digit_of(text: str) -> int:
    """The digit that a caption of the toy world names. Raises ValueError where it names none."""
    for word in text.split():
        if word in DIGIT_WORDS:
            return DIGIT_WORDS.index(word)
    raise ValueError(f"a caption of the toy world must name a digit, got {text!r}")


#: Every word that a caption can hold, in alphabetical order.
VOCABULARY: tuple[str, ...] = tuple(
    sorted({word for text in ("a handwritten in ink on paper", *DIGIT_WORDS, *INKS, *PAPERS) for word in text.split()})
)


@dataclass(frozen=True, slots=True)
class Captioner:
    """An endless, indexed source of captions: a pure function of the seed and the index."""

    seed: int

    def prompt(self, index: int) -> Caption:
        """The caption at `index` >= 0; equal for equal seeds whatever was asked before."""
        rng = np.random.default_rng([self.seed, index])
        return draw_caption(rng, digit=int(rng.integers(len(DIGIT_WORDS))))


def draw_caption(
    rng: np.random.Generator,
    digit: int,
    ink: str | None = None,
    paper: str | None = None,
    named: float = NAMED,
) -> Caption:
    """A random caption of one digit that names the ink, and independently the paper, with chance `named`.

    `ink` and `paper` are those of an image that exists already; without one, a random colour is asked for.
    """
    ink_name = ink or list(INKS)[rng.integers(len(INKS))]
    paper_name = paper or list(PAPERS)[rng.integers(len(PAPERS))]
    shown = rng.random(2) < named
    shown_ink, shown_paper = ink_name if shown[0] else None, paper_name if shown[1] else None
    return Caption(caption(digit, shown_ink, shown_paper), digit, shown_ink, shown_paper)
