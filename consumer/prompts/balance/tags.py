"""Which concepts a set of captions names: given with the captions, or found in them (`matching.py`)."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.captions import Captions
from penstock.consumer.prompts.source import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The concepts of N captions."""

    names: tuple[str, ...]
    """Of all concepts, C."""
    codes: NDArray[np.int32]
    """int32 [N]: the concept of each caption, a place in `names`; -1 where it has none."""
    starts: NDArray[np.int64] | None = None
    """int64 [N + 1]: caption r names all of `all_codes[starts[r] : starts[r + 1]]`; None where none names several."""
    all_codes: NDArray[np.int32] | None = None
    """int32 [K], each concept once a caption; None with `starts`."""

    @property
    def num_without(self) -> int:
        """Captions that have no concept."""
        return int(np.count_nonzero(self.codes < 0))

    @property
    def digest(self) -> str:
        """Changes where names or codes do."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for codes in (self.codes, self.starts, self.all_codes):
            digest.update(b"" if codes is None else np.ascontiguousarray(codes).data)
        return digest.hexdigest()

    def counts(self) -> NDArray[np.int64]:
        """Captions whose concept each is: int64 [C]."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def counts_of_all(self) -> NDArray[np.int64]:
        """Captions that name each concept, among others or alone: int64 [C]."""
        return self.counts() if self.all_codes is None else np.bincount(self.all_codes, minlength=len(self.names))


def given_tags(captions: Captions) -> Tags | None:
    """The concepts that came with the captions; None where none came."""
    codes = captions.concept_codes
    return None if codes is None else Tags(names=captions.concepts, codes=codes)


class TaggedCaptions:
    """Captions whose concepts were found in them.

    Args:
        captions: without concepts of their own.
        tags: theirs.
    """

    def __init__(self, captions: Captions, tags: Tags) -> None:
        self._captions = captions
        self.concept_codes = tags.codes
        self.concepts = tags.names
        self.digest = hashlib.sha256(f"{captions.digest} {tags.digest}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._captions)

    def caption(self, row: int) -> Prompt:
        """The caption in a row."""
        return Prompt(self._captions.caption(row).text, int(self.concept_codes[row]))
