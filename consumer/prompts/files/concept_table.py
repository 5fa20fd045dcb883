"""Names of concepts as numbers, while captions are being read: a file of ten million rows has few names."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.files.records import is_encodable
from penstock.protocol.errors import ConfigError

MAX_CONCEPTS: Final = 1 << 20
NO_CONCEPT: Final = -1


class ConceptTable(dict[str | bytes | int, int]):
    """Gives every spelling of a name its number: `table[spelling]`, -1 where it is blank or no UTF-8.

    Numbers are given as names come; `sorted_names` and `places` say what they are in the order of the alphabet.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[str, int] = {}

    def __missing__(self, spelling: str | bytes | int) -> int:
        name = (spelling.decode() if isinstance(spelling, bytes) else str(spelling)).strip()
        if not name or not is_encodable(name):
            return NO_CONCEPT
        number = self._numbers.setdefault(name, len(self._numbers))
        if len(self) >= MAX_CONCEPTS:
            raise ConfigError(
                f"prompts.source has more than {MAX_CONCEPTS} concepts; is prompts.concept_column a column of classes?"
            )
        self[spelling] = number
        return number

    @property
    def sorted_names(self) -> tuple[str, ...]:
        """All names, in an order that the file's does not change."""
        return tuple(sorted(self._numbers))

    def places(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """The places in `sorted_names` of what has these numbers: [rows]."""
        place = {name: place for place, name in enumerate(self.sorted_names)}
        return np.array([place[name] for name in self._numbers], np.int32)[numbers]
