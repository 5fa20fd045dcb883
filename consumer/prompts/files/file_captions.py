"""The captions of some files, one file after the other."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.concept_table import NO_CONCEPT, ConceptTable
from penstock.consumer.prompts.files.indexed_file import IndexedFile
from penstock.consumer.prompts.source import Prompt
from penstock.protocol.errors import ConfigError, RunError
from penstock.protocol.tickets import prompt_id

_MAX_CHECKED_ROWS: Final = 1 << 20
"""Beyond this it is not checked that equal captions have one concept: it takes seconds and memory for a million."""


class FileCaptions:
    """Captions that stay in their files; see `Captions`. Threads may share them.

    Args:
        files: in order; one row at least in all.
        digest: of them.
        concepts: what their rows' concepts were numbered by.
    """

    def __init__(self, files: Sequence[IndexedFile], digest: str, concepts: ConceptTable) -> None:
        self._files = files
        self._first, self._num_first = files[0], len(files[0])
        self._behind = [*accumulate(map(len, files))]
        self.digest = digest
        self.concepts = concepts.sorted_names
        self._place = {name: place for place, name in enumerate(self.concepts)}
        self.concept_codes: NDArray[np.int32] | None = None
        """int32 [N]: the concept of each, a place in `concepts`; None where they have no concepts."""
        if self.concepts:
            self.concept_codes = concepts.places(np.concatenate([piece for file in files for piece in file.codes]))
        for file in files:
            file.codes.clear()

    def __len__(self) -> int:
        return self._behind[-1]

    def caption(self, row: int) -> Prompt:
        """The caption in a row. Raises RunError where its file has changed since it was opened."""
        if row < self._num_first:
            text, concept = self._first.caption(row)
        else:
            number = bisect_right(self._behind, row)
            text, concept = self._files[number].caption(row - self._behind[number - 1])
        try:
            return Prompt(text, self._place[concept] if concept else NO_CONCEPT)
        except KeyError as error:
            raise RunError(f"concept {concept!r} was not in the prompts when the run opened them") from error

    def close(self) -> None:
        """Close the files; they close with this object too."""
        for file in self._files:
            file.close()

    def check_concepts(self, source: str) -> None:
        """Raises ConfigError where a caption has two concepts, in at most 2**20 rows.

        Spellings that share an id are one prompt to the losses, and so have one concept.
        """
        if not self.concepts or len(self) > _MAX_CHECKED_ROWS:
            return
        concept_of: dict[int, int] = {}
        for row in range(len(self)):
            prompt = self.caption(row)
            first = concept_of.setdefault(prompt_id(prompt.text), prompt.concept)
            if first != prompt.concept:
                names = f"{self.concepts[prompt.concept]!r} and {self.concepts[first]!r}"
                raise ConfigError(f"prompts.source: {source}: {prompt.text[:40]!r} must have one concept, got {names}")
