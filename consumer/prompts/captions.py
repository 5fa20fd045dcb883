"""Finite sets of captions, and the prompt source that goes through one in a new order every epoch."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.permutation import KeyedPermutation
from penstock.consumer.prompts.source import Prompt

_BLOCK = 4096
"""Positions whose rows are found at once."""
_CACHED_BLOCKS = 64
"""A batch asks again for the concepts of its groups, which may have been in the reservoir for long. 262,144 rows."""


class Captions(Protocol):
    """N captions that can be read in any order."""

    @property
    def digest(self) -> str:
        """Changes where the captions do."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of their classes; none where they have no concepts."""

    @property
    def concept_codes(self) -> NDArray[np.int32] | None:
        """int32 [N]: the concept of each, a place in `concepts`, or -1; None where they have no concepts."""

    def __len__(self) -> int: ...

    def caption(self, row: int) -> Prompt:
        """The caption in row 0 to N - 1."""


class ListedCaptions:
    """Captions in memory.

    Args:
        texts: at least one.
        digest: of them.
        names: the name of each caption's concept; none where they have no concepts.
    """

    def __init__(self, texts: Sequence[str], digest: str, names: Sequence[str] = ()) -> None:
        self._texts = texts
        self.digest = digest
        self.concepts = tuple(sorted(set(names)))
        place = {name: place for place, name in enumerate(self.concepts)}
        self.concept_codes = np.array([place[name] for name in names], dtype=np.int32) if names else None

    def __len__(self) -> int:
        return len(self._texts)

    def caption(self, row: int) -> Prompt:
        """The caption in a row."""
        return Prompt(self._texts[row], -1 if self.concept_codes is None else int(self.concept_codes[row]))


class ShuffledCaptions:
    """A prompt source: each caption once an epoch, in a new order every epoch.

    Args:
        captions: at least one.
        seed: decides the orders.
    """

    def __init__(self, captions: Captions, seed: int) -> None:
        self._captions = captions
        self._seed = seed
        self.num_captions = len(captions)
        self._rows = lru_cache(maxsize=_CACHED_BLOCKS)(self._block)

    @property
    def digest(self) -> str:
        """Of the captions."""
        return self._captions.digest

    @property
    def concepts(self) -> tuple[str, ...]:
        """Of the captions."""
        return self._captions.concepts

    @property
    def num_without_concept(self) -> int:
        """Captions that have none, where others do."""
        codes = self._captions.concept_codes
        return 0 if codes is None else int(np.count_nonzero(codes < 0))

    def prompt(self, index: int) -> Prompt:
        """What stands at `index`; index // N is the epoch."""
        epoch, position = divmod(index, self.num_captions)
        block, place = divmod(position, _BLOCK)
        return self._captions.caption(self._rows(epoch, block)[place])

    def _block(self, epoch: int, block: int) -> list[int]:
        """The rows that stand at the positions of a block of an epoch."""
        positions = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.num_captions), dtype=np.uint64)
        order = KeyedPermutation(self.num_captions, f"{self._seed} {epoch}")
        rows: list[int] = order(positions).tolist()
        return rows
