"""What remade images show: each is held to the texts of every value, and shows the value whose text it matches best.

That is zero-shot classification (Radford et al. 2021, section 3.1.4), with the errors of the scorer in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.deploy.audit_attributes import Attribute
from penstock.deploy.remaking import batches

if TYPE_CHECKING:
    from penstock.deploy.remaking import Remade

EXAMPLES = 8
"""Images that are kept of each value, of different groups."""


class ZeroShot(Protocol):
    """What is asked of a scorer; `penstock.producer.scorer` opens such ones."""

    def score_each(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32 [n, k] of every image uint8 [n, H, W, 3] with every one of k prompts; higher is better."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image of a value."""

    image: NDArray[np.uint8]
    """uint8 [H, W, 3]."""
    prompt: str
    index: int
    """Of its group."""
    shown: str
    """The value that it shows."""


@dataclass(slots=True)
class Seen:
    """What n groups show by each of A attributes, with V_a values."""

    shown: list[NDArray[np.float64]]
    """A times float64 [n, V_a]: shares of each group's images."""
    examples: list[list[list[Example]]]
    """By attribute and value, of groups whose prompt names it."""
    num_images: int = 0
    matching: int = 0
    """Groups whose checksum is the ledger's."""
    differing: int = 0
    notes: list[str] = field(default_factory=list)


def accuracies(
    images: NDArray[np.uint8], truth: Sequence[NDArray[np.int64]], attributes: Sequence[Attribute], scorer: ZeroShot
) -> list[float]:
    """How well a scorer reads images of which everything is known: A shares.

    Args:
        images: uint8 [n, H, W, 3].
        truth: A times int64 [n], places of the values that they show.
        attributes: what to look for.
        scorer: loaded.
    """
    shown = _Judge(attributes, scorer).shown(images)
    return [float((read == known).mean()) for read, known in zip(shown, truth, strict=True)]


def look(
    remade: "Iterator[Remade]",
    attributes: Sequence[Attribute],
    codes: NDArray[np.int16],
    scorer: ZeroShot,
) -> Seen:
    """Look at the images of groups.

    Args:
        remade: n groups.
        attributes: what to look for.
        codes: int16 [n, A], what the groups' prompts name.
        scorer: loaded.
    """
    seen = Seen(
        shown=[np.zeros((len(codes), len(attribute.values))) for attribute in attributes],
        examples=[[[] for _ in attribute.values] for attribute in attributes],
    )
    judge = _Judge(attributes, scorer)
    place = 0
    for batch in batches(remade):
        shown = judge.shown(np.concatenate([each.images for each in batch]))
        start = 0
        for each in batch:
            here = slice(start, start := start + len(each.images))
            for number, attribute in enumerate(attributes):
                counts = np.bincount(shown[number][here], minlength=len(attribute.values))
                seen.shown[number][place] = counts / len(each.images)
                _keep(seen.examples[number], attribute, int(codes[place, number]), each, int(shown[number][here][0]))
            seen.num_images += len(each.images)
            seen.matching += each.matches is True
            seen.differing += each.matches is False
            place += 1
    return seen


def _keep(examples: list[list[Example]], attribute: Attribute, named: int, remade: "Remade", shown: int) -> None:
    """Keep a group's first image as an example of the value that its prompt names."""
    if named >= 0 and len(examples[named]) < EXAMPLES:
        group = remade.group
        name = attribute.values[shown].name
        examples[named].append(Example(remade.images[0].copy(), group.recipe.prompt, group.index, name))


class _Judge:
    """Says which value of each attribute an image shows.

    Args:
        attributes: A of them.
        scorer: loaded.
    """

    def __init__(self, attributes: Sequence[Attribute], scorer: ZeroShot) -> None:
        self._scorer = scorer
        self._texts = [text for attribute in attributes for value in attribute.values for text in value.texts]
        lengths = [[len(value.texts) for value in attribute.values] for attribute in attributes]
        sizes = [sum(length) for length in lengths]
        self._starts = [end - size for size, end in zip(sizes, accumulate(sizes), strict=True)]
        self._sizes = sizes
        # Where in its attribute's texts each value begins.
        self._values = [np.cumsum([0, *length[:-1]]) for length in lengths]

    def shown(self, images: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """The values that images uint8 [n, H, W, 3] show, by their places: A times int64 [n]."""
        scores = self._scorer.score_each(images, self._texts)
        return [
            np.maximum.reduceat(scores[:, start : start + size], values, axis=1).argmax(1)
            for start, size, values in zip(self._starts, self._sizes, self._values, strict=True)
        ]
